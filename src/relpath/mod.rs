//! Validated relative paths.
//!
//! Every name that is received or sent is a [`RelPath`]. [`RelPath::new`] is its only constructor: it rejects invalid
//! names and never repairs them, because a repaired name is not the one that was sent.

mod link;

use std::fmt::{self, Display};

use crate::escape::{Escaped, is_unsafe_to_print};

pub use link::{LinkError, LinkTarget};

/// The largest size of a component, as on every common file system.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// The largest size of a path, separators included.
pub const MAX_PATH_BYTES: usize = 4096;
/// The largest number of components. It limits recursion.
pub const MAX_COMPONENTS: usize = 128;
/// The prefix of staged files, in upper or lower case; names of a peer must not begin with it.
pub const RESERVED_PREFIX: &[u8] = b".ftx-";

/// A relative path without `.`, `..`, empty components or NUL, within bounds; raw bytes, `/` between components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<[u8]>);

/// The treatment of names with control or bidirectional characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamePolicy {
    /// Refuse them (the default).
    Strict,
    /// Accept them (`--allow-odd-names`); they are escaped when they are displayed.
    AllowOdd,
}

/// Why a name is not a [`RelPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes.
    #[error("the name is empty")]
    Empty,
    /// It begins with `/`.
    #[error("the name is absolute")]
    Absolute,
    /// `a//b` or `a/`.
    #[error("the name has an empty component")]
    EmptyComponent,
    /// `.` or `..` as a component.
    #[error("the name has the component \"{0}\"")]
    DotComponent(&'static str),
    /// A NUL byte.
    #[error("the name holds a NUL byte")]
    Nul,
    /// A component begins with [`RESERVED_PREFIX`], in upper or lower case.
    #[error("names that begin with \".ftx-\" are reserved for staged files")]
    Reserved,
    /// A component is longer than [`MAX_COMPONENT_BYTES`].
    #[error("a component of the name has {0} bytes, the limit is {MAX_COMPONENT_BYTES}")]
    ComponentTooLong(usize),
    /// The path is longer than [`MAX_PATH_BYTES`].
    #[error("the name has {0} bytes, the limit is {MAX_PATH_BYTES}")]
    TooLong(usize),
    /// More than [`MAX_COMPONENTS`] components.
    #[error("the name is more than {MAX_COMPONENTS} folders deep")]
    TooDeep,
    /// A control or bidirectional character, and the policy is [`NamePolicy::Strict`].
    #[error("the name holds the control character U+{:04X}", u32::from(*.0))]
    OddCharacter(char),
}

impl RelPath {
    /// Validates `bytes` and keeps them unchanged.
    pub fn new(bytes: &[u8], policy: NamePolicy) -> Result<Self, NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(NameError::TooLong(bytes.len()));
        }
        if bytes[0] == b'/' {
            return Err(NameError::Absolute);
        }
        if bytes.contains(&0) {
            return Err(NameError::Nul);
        }
        for (index, component) in bytes.split(|&b| b == b'/').enumerate() {
            if index == MAX_COMPONENTS {
                return Err(NameError::TooDeep);
            }
            check_component(component)?;
        }
        if policy == NamePolicy::Strict
            && let Some(odd) =
                bytes.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).find(|&c| is_unsafe_to_print(c))
        {
            return Err(NameError::OddCharacter(odd));
        }
        Ok(RelPath(bytes.into()))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, outermost first; at least one.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/')
    }

    /// The path of the folder that contains this path, empty at the top, and the last component.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }

    /// The number of folders above the last component.
    pub fn depth(&self) -> usize {
        self.components().count() - 1
    }
}

fn check_component(component: &[u8]) -> Result<(), NameError> {
    match component {
        b"" => Err(NameError::EmptyComponent),
        b"." => Err(NameError::DotComponent(".")),
        b".." => Err(NameError::DotComponent("..")),
        c if c.len() > MAX_COMPONENT_BYTES => Err(NameError::ComponentTooLong(c.len())),
        // On a file system that ignores case, every spelling would name a staged file.
        c if c.get(..RESERVED_PREFIX.len()).is_some_and(|c| c.eq_ignore_ascii_case(RESERVED_PREFIX)) => {
            Err(NameError::Reserved)
        }
        _ => Ok(()),
    }
}

impl Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped::new(&self.0).fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;
    use proptest::prelude::*;

    fn strict(name: &[u8]) -> Result<RelPath, NameError> {
        RelPath::new(name, NamePolicy::Strict)
    }

    #[test]
    fn what_posix_allows_is_fine() {
        for name in ["a", "photos/2026/ä b.jpg", "back\\slash", "...", "-rf", "👩‍👩‍👧/x", "C:\\a.txt", ".ftx"]
        {
            assert_eq!(strict(name.as_bytes()).unwrap().as_bytes(), name.as_bytes());
        }
        assert!(strict(b"caf\xe9").is_ok(), "bytes that are not UTF-8 are a name too");
    }

    #[test]
    fn what_leads_elsewhere_is_rejected() {
        let cases: [(&[u8], NameError); 14] = [
            (b"", NameError::Empty),
            (b"/etc/passwd", NameError::Absolute),
            (b"/", NameError::Absolute),
            (b".", NameError::DotComponent(".")),
            (b"..", NameError::DotComponent("..")),
            (b"a/../b", NameError::DotComponent("..")),
            (b"a/./b", NameError::DotComponent(".")),
            (b"a//b", NameError::EmptyComponent),
            (b"a/", NameError::EmptyComponent),
            (b"a\0b", NameError::Nul),
            (b".ftx-1234", NameError::Reserved),
            (b"a/.ftx-/b", NameError::Reserved),
            (b".FTX-part-1234", NameError::Reserved),
            (b"a/.Ftx-x", NameError::Reserved),
        ];
        for (name, error) in cases {
            assert_eq!(strict(name), Err(error.clone()), "{name:?}");
            assert_eq!(RelPath::new(name, NamePolicy::AllowOdd), Err(error), "{name:?}");
        }
    }

    #[test]
    fn bounds_are_exact() {
        assert!(strict(&[b'a'; 255]).is_ok());
        assert_eq!(strict(&[b'a'; 256]), Err(NameError::ComponentTooLong(256)));
        let deep = |components: usize| vec!["d"; components].join("/").into_bytes();
        assert!(strict(&deep(128)).is_ok());
        assert_eq!(strict(&deep(129)), Err(NameError::TooDeep));
        let long = |bytes: usize| {
            [vec!["x".repeat(250); 16].join("/"), "y".repeat(bytes - 4016)].join("/").into_bytes()
        };
        assert_eq!(long(4096).len(), 4096);
        assert!(strict(&long(4096)).is_ok());
        assert_eq!(strict(&long(4097)), Err(NameError::TooLong(4097)));
    }

    #[test]
    fn odd_characters_are_taken_only_on_request() {
        for odd in ['\n', '\x1b', '\x7f', '\u{9b}', '\u{202e}', '\u{2066}'] {
            let name = format!("a{odd}b");
            assert_eq!(strict(name.as_bytes()), Err(NameError::OddCharacter(odd)));
            let taken = RelPath::new(name.as_bytes(), NamePolicy::AllowOdd).unwrap();
            assert_eq!(taken.as_bytes(), name.as_bytes());
            assert!(!taken.to_string().contains(odd), "shown escaped");
        }
    }

    #[test]
    fn a_path_splits_into_folder_and_name() {
        assert_eq!(strict(b"a/b/c").unwrap().split(), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(strict(b"c").unwrap().split(), (&b""[..], &b"c"[..]));
        assert_eq!(strict(b"a/b/c").unwrap().depth(), 2);
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_below_its_root(bytes in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), Just(0u8), any::<u8>()], 0..64)) {
            if let Ok(path) = RelPath::new(&bytes, NamePolicy::AllowOdd) {
                use std::path::Component;
                let system_path = Path::new(OsStr::from_bytes(path.as_bytes()));
                prop_assert!(system_path.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(system_path.components().count(), path.components().count());
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
            }
        }
    }
}
