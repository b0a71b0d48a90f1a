//! Threads of this process.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// How many threads this process may have: by the limit of its user, and by those of its control groups less what they have.
pub fn max_threads() -> u64 {
    let of_user = getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    of_user.min(threads_in_groups(&groups, Path::new("/sys/fs/cgroup")))
}

/// What the limits of these control groups and of those above them leave, in either version of their file system below
/// `root`; cgroups(7). A group that cannot be read has no limit.
fn threads_in_groups(groups: &str, root: &Path) -> u64 {
    let mut most = u64::MAX;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let root = match controllers {
            "" => root.to_owned(),
            _ if controllers.split(',').any(|controller| controller == "pids") => root.join("pids"),
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        for group in group.ancestors().take_while(|group| group.starts_with(&root)) {
            let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
            if let Some(limit) = number("pids.max") {
                most = most.min(limit.saturating_sub(number("pids.current").unwrap_or(0)));
            }
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_control_group_limits_threads() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, max: &str, current: &str| {
            let group = root.path().join(path);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("pids.max"), max).unwrap();
            fs::write(group.join("pids.current"), current).unwrap();
        };
        let threads = |groups: &str| threads_in_groups(groups, root.path());
        group("user/inner", "max\n", "3\n");
        assert_eq!(threads("0::/user/inner\n"), u64::MAX);
        group("user", "100\n", "40\n");
        assert_eq!(threads("0::/user/inner\n"), 60, "that of the group above");
        group("pids/old", "50\n", "60\n");
        assert_eq!(
            threads("4:pids:/old\n3:cpu,pids:/old\n1:cpu:/user\n"),
            0,
            "the first version, above its limit"
        );
        assert_eq!(threads("1:cpu:/user\n2:name=systemd:/user\n0::/elsewhere\n"), u64::MAX);
    }
}
