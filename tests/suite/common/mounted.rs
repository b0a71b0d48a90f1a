//! Temporary file systems for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount; unmounted when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(args: &[&str], source: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(args).arg(source).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Mounted(at.to_owned()))
    }

    /// A case-insensitive file system in an image in `dir`: the first type that can be created and mounted here.
    pub fn case_insensitive(dir: &Path, at: &Path) -> Option<Self> {
        let image = dir.join("image");
        for (make, kind) in [
            (&["mkfs.ext4", "-q", "-F", "-O", "casefold", "-E", "encoding=utf8"][..], "ext4"),
            (&["mkfs.vfat"], "vfat"),
            (&["mkfs.exfat"], "exfat"),
            (&["mkfs.exfat"], "exfat-fuse"),
        ] {
            let _ = fs::remove_file(&image);
            fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
            let made = Command::new(make[0]).args(&make[1..]).arg(&image).output();
            let options = if kind == "vfat" { "loop,utf8" } else { "loop" };
            if made.is_ok_and(|output| output.status.success())
                && let Some(mounted) = Self::new(&["-t", kind, "-o", options], &image, at)
            {
                // ext4 has a flag per directory, which new directories inherit from the root.
                let _ = Command::new("chattr").arg("+F").arg(at).output();
                fs::write(at.join("PROBE"), "").unwrap();
                let folds = at.join("probe").exists();
                fs::remove_file(at.join("PROBE")).unwrap();
                if folds {
                    return Some(mounted);
                }
            }
        }
        None
    }

    /// An ext4 in an image in `dir` with inodes too small for nanoseconds: timestamps are whole seconds.
    pub fn whole_seconds(dir: &Path, at: &Path) -> Option<Self> {
        let image = dir.join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-I", "128"]).arg(&image).output();
        let is_made = made.is_ok_and(|output| output.status.success());
        is_made.then(|| Self::new(&["-t", "ext4", "-o", "loop"], &image, at)).flatten()
    }

    /// A tmpfs of `bytes` bytes.
    pub fn memory(bytes: u64, at: &Path) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={bytes}")], Path::new("tmpfs"), at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
