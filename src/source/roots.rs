//! The paths of the command line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::SourceError;
use crate::relpath::{NamePolicy, RelPath};

/// One path to send, and the name under which it is stored.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its absolute path, with links resolved: those on the command line are followed, as in scp; those inside are not.
    pub path: PathBuf,
    /// The name at the receiver, of one component.
    pub name: RelPath,
}

/// Checks the paths of a command line before a connection is made.
pub fn roots(paths: &[PathBuf]) -> Result<Vec<Root>, SourceError> {
    let mut by_name: BTreeMap<RelPath, &Path> = BTreeMap::new();
    let mut roots = Vec::with_capacity(paths.len());
    for path in paths {
        let root = Root::new(path)?;
        if let Some(first) = by_name.insert(root.name.clone(), path) {
            return Err(SourceError::SameName { first: first.to_owned(), second: path.clone() });
        }
        roots.push(root);
    }
    Ok(roots)
}

impl Root {
    fn new(typed: &Path) -> Result<Self, SourceError> {
        let unreadable = |source| SourceError::Unreadable { path: typed.to_owned(), source };
        let real = fs::canonicalize(typed).map_err(unreadable)?;
        // A link has its own name; `.` and `..` have the name of the directory that they resolve to.
        let name = typed.file_name().or(real.file_name());
        let name = name.ok_or_else(|| SourceError::Nameless { path: typed.to_owned() })?;
        let name = RelPath::new(name.as_encoded_bytes(), NamePolicy::AllowOdd)
            .map_err(|source| SourceError::Name { path: typed.to_owned(), source })?;
        Ok(Root { path: real, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_last_components() {
        let dir = tempfile::tempdir().unwrap();
        let photos = dir.path().join("photos");
        fs::create_dir(&photos).unwrap();
        fs::write(dir.path().join("a.txt"), "a").unwrap();
        std::os::unix::fs::symlink("photos", dir.path().join("latest")).unwrap();
        for (typed, name) in [
            ("photos", "photos"),
            ("photos/", "photos"),
            ("photos/.", "photos"),
            ("a.txt", "a.txt"),
            ("latest", "latest"),
            ("photos/../photos", "photos"),
        ] {
            let root = Root::new(&dir.path().join(typed)).unwrap();
            assert_eq!(root.name.as_bytes(), name.as_bytes(), "{typed}");
        }
        assert!(matches!(Root::new(Path::new("/")), Err(SourceError::Nameless { .. })));
        assert!(matches!(Root::new(&dir.path().join("gone")), Err(SourceError::Unreadable { .. })));
        let twice = [photos.clone(), dir.path().join("a.txt"), photos.join(".")];
        assert!(matches!(roots(&twice), Err(SourceError::SameName { .. })));
    }
}
