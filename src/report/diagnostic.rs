//! An error as it is printed.

use super::manifest::ManifestError;
use crate::exit_code::ExitCode;

/// An error for people and for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What failed.
    pub sentence: String,
    /// How to fix it, if there is a way.
    pub advice: Option<&'static str>,
    /// The exit code.
    pub exit: ExitCode,
}

impl Diagnostic {
    /// Describes `error`.
    pub fn new(error: &impl ToString, exit: ExitCode, advice: Option<&'static str>) -> Self {
        Diagnostic { sentence: error.to_string(), advice, exit }
    }
}

impl From<&ManifestError> for Diagnostic {
    fn from(error: &ManifestError) -> Self {
        Diagnostic::new(error, ExitCode::FileIo, Some("--manifest needs a file in a writable folder"))
    }
}
