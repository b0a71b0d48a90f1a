//! Validated targets of symbolic links, which stay inside the transfer.

use std::fmt::{self, Display};

use super::{MAX_PATH_BYTES, NamePolicy, RelPath};
use crate::escape::{Escaped, is_unsafe_to_print};

/// The target of a symbolic link that cannot lead out of the root, even through other such links.
///
/// The rule: relative, any number of leading `..` that does not climb above the root, then plain components, and no
/// `..` after the first plain one. Leading `..` climb from the folder that contains the link; each later component is a
/// folder, which goes down, or another such link, which by the same rule stays inside. A `..` in the middle would climb
/// from the target of a link before it, so `a/../b` is refused.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkTarget(Box<[u8]>);

/// Why a link's target is not a [`LinkTarget`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Empty, or longer than [`MAX_PATH_BYTES`], or with a NUL byte.
    #[error("the link's target is empty, too long or holds a NUL byte")]
    Malformed,
    /// It begins with `/`.
    #[error("the link's target is an absolute path")]
    Absolute,
    /// More `..` than there are folders above the link, or one after a plain component.
    #[error("the link points outside the transfer")]
    Escapes,
    /// A control or bidirectional character, and the policy is [`NamePolicy::Strict`].
    #[error("the link's target holds the control character U+{:04X}", u32::from(*.0))]
    OddCharacter(char),
}

impl LinkTarget {
    /// Validates the raw `target` of the link with the path `link`.
    pub fn new(target: &[u8], link: &RelPath, policy: NamePolicy) -> Result<Self, LinkError> {
        if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
            return Err(LinkError::Malformed);
        }
        if target[0] == b'/' {
            return Err(LinkError::Absolute);
        }
        let ups = climbs(target).ok_or(LinkError::Escapes)?;
        if ups > link.depth() {
            return Err(LinkError::Escapes);
        }
        if policy == NamePolicy::Strict
            && let Some(odd) =
                target.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).find(|&c| is_unsafe_to_print(c))
        {
            return Err(LinkError::OddCharacter(odd));
        }
        Ok(LinkTarget(target.into()))
    }

    /// The raw bytes, as `readlink` returns them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first component of the resolved target, relative to the root of `link`; `None` if it is the root itself.
    pub fn top<'a>(&'a self, link: &'a RelPath) -> Option<&'a [u8]> {
        let ups = climbs(&self.0)?;
        if ups < link.depth() {
            return link.components().next();
        }
        plain_components(&self.0).find(|c| *c != b"..")
    }
}

fn plain_components(target: &[u8]) -> impl Iterator<Item = &[u8]> {
    target.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".")
}

/// The number of leading `..`; `None` if there is another one later.
fn climbs(target: &[u8]) -> Option<usize> {
    let ups = plain_components(target).take_while(|c| *c == b"..").count();
    let climbs_again = plain_components(target).skip(ups).any(|c| c == b"..");
    (!climbs_again).then_some(ups)
}

impl Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped::new(&self.0).fmt(f)
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkTarget({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(target: &str, link: &str) -> Result<LinkTarget, LinkError> {
        let link = RelPath::new(link.as_bytes(), NamePolicy::Strict).unwrap();
        LinkTarget::new(target.as_bytes(), &link, NamePolicy::Strict)
    }

    #[test]
    fn targets_inside_are_fine() {
        for (to, at) in
            [("b", "t/l"), ("../b", "t/d/l"), ("../../b/c", "t/d/l"), ("./x//y/", "t/l"), ("..", "t/d/l")]
        {
            assert!(target(to, at).is_ok(), "{at} -> {to}");
        }
    }

    #[test]
    fn targets_outside_are_refused() {
        assert_eq!(target("/etc/passwd", "t/l"), Err(LinkError::Absolute));
        assert_eq!(target("", "t/l"), Err(LinkError::Malformed));
        assert_eq!(target("a\0b", "t/l"), Err(LinkError::Malformed));
        for (to, at) in [
            ("..", "l"),
            ("../../x", "t/l"),
            ("../../../x", "t/d/l"),
            ("a/../../../x", "t/l"),
            ("a/..", "t/l"),
        ] {
            assert_eq!(target(to, at), Err(LinkError::Escapes), "{at} -> {to}");
        }
        assert_eq!(target("a\u{202e}b", "t/l"), Err(LinkError::OddCharacter('\u{202e}')));
    }

    #[test]
    fn the_top_component_is_where_the_target_lies() {
        let top = |to: &str, at: &str| {
            let link = RelPath::new(at.as_bytes(), NamePolicy::Strict).unwrap();
            let target = LinkTarget::new(to.as_bytes(), &link, NamePolicy::Strict).unwrap();
            target.top(&link).map(|t| String::from_utf8(t.to_vec()).unwrap())
        };
        assert_eq!(top("b", "t/l").as_deref(), Some("t"));
        assert_eq!(top("../other/x", "t/l").as_deref(), Some("other"));
        assert_eq!(top("../x", "t/d/l").as_deref(), Some("t"));
        assert_eq!(top("..", "t/l"), None);
    }
}
