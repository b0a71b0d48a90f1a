//! An accepted name or link target stays below the destination folder, and escaped text holds no terminal controls.
#![no_main]

use std::path::{Component, Path};

use arbitrary::Arbitrary;
use ftx::escape::{Escaped, is_unsafe_to_print};
use ftx::relpath::{LinkTarget, NamePolicy, RelPath};
use ftx::sys::path::from_bytes;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    allow_odd: bool,
    name: &'a [u8],
    target: &'a [u8],
}

fn check_escaped(text: &[u8]) {
    let escaped = Escaped::new(text).to_string();
    assert!(
        !escaped.chars().any(|c| is_unsafe_to_print(c) || matches!(c, '\u{2028}' | '\u{2029}')),
        "{escaped:?}"
    );
}

fuzz_target!(|input: Input| {
    let policy = if input.allow_odd { NamePolicy::AllowOdd } else { NamePolicy::Strict };
    check_escaped(input.name);
    check_escaped(input.target);
    let Ok(path) = RelPath::new(input.name, policy) else {
        return;
    };
    assert_eq!(path.as_bytes(), input.name, "names are never repaired");
    assert_eq!(RelPath::new(path.as_bytes(), policy), Ok(path.clone()));
    assert!(
        from_bytes(path.as_bytes()).components().all(|component| matches!(component, Component::Normal(_)))
    );
    assert_eq!(from_bytes(path.as_bytes()).components().count(), path.depth() + 1);
    let root = Path::new("/the/root");
    assert!(root.join(from_bytes(path.as_bytes())).starts_with(root));
    if policy == NamePolicy::Strict {
        assert!(!input.name.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).any(is_unsafe_to_print));
    }
    let Ok(target) = LinkTarget::new(input.target, &path, policy) else {
        return;
    };
    assert_eq!(target.as_bytes(), input.target, "targets are never repaired");
    assert_eq!(LinkTarget::new(target.as_bytes(), &path, policy), Ok(target.clone()));
    // Resolve the target component by component, from the folder that holds the link.
    let mut depth = path.depth() as i64;
    for component in from_bytes(target.as_bytes()).components() {
        match component {
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            other => panic!("{other:?}"),
        }
        assert!(depth >= 0, "{target:?} at {path:?}");
    }
    let _ = target.top(&path);
});
