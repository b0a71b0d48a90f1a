//! `ftx`: see [`ftx::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ftx::program::run() as u8)
}
