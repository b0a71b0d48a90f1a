//! The program `ftx`: see [`ftx::app`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ftx::app::run() as u8)
}
