//! How much memory a program may still take.

use std::path::Path;

/// Bytes a program may still take, where the system says so: on Linux what is free, and within the limits of the control
/// groups it is in.
pub(super) fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Some(free.min(group_memory(Path::new("/sys/fs/cgroup"), group)))
}

/// Bytes that `group` and those around it, folders below `root`, may still take; all there are where nothing limits them.
fn group_memory(root: &Path, group: &str) -> u64 {
    // Inside a container the path may be the host's, and lead nowhere: the root is then the container's own.
    let folder = root.join(group);
    let around = folder.ancestors().take_while(|folder| folder.starts_with(root));
    around.filter_map(left).min().unwrap_or(u64::MAX)
}

/// A group's limit less what it uses, of which pages of files that it may give back are no part.
fn left(group: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let files = read("memory.stat").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
    });
    Some(limit.saturating_sub(used.saturating_sub(files.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_limit_what_is_free() {
        let root = std::env::temp_dir().join(format!("ancestral-cgroup-{}", std::process::id()));
        let inner = root.join("pod/container");
        std::fs::create_dir_all(&inner).unwrap();
        let write = |folder: &Path, name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        assert_eq!(group_memory(&root, "pod/container"), u64::MAX);
        write(&inner, "memory.max", "max\n");
        assert_eq!(group_memory(&root, "pod/container"), u64::MAX);
        write(&inner, "memory.max", "1000\n");
        write(&inner, "memory.current", "700\n");
        assert_eq!(group_memory(&root, "pod/container"), 300);
        write(&inner, "memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n");
        assert_eq!(group_memory(&root, "pod/container"), 450);
        write(&root.join("pod"), "memory.max", "900\n");
        write(&root.join("pod"), "memory.current", "800\n");
        assert_eq!(group_memory(&root, "pod/container"), 100);
        write(&inner, "memory.current", "2000\n");
        assert_eq!(group_memory(&root, "pod/container"), 0);
        // A path of the host's.
        write(&root, "memory.max", "5000");
        write(&root, "memory.current", "1000");
        assert_eq!(group_memory(&root, "kubepods/elsewhere"), 4000);
        std::fs::remove_dir_all(root).unwrap();
    }
}
