//! `ftx bench`.

use crate::app::args::BenchArgs;
use crate::app::options::bench_options;
use crate::app::signals::Signals;
use crate::bench::{self, BenchError};
use crate::exit_code::ExitCode;
use crate::report::{Diagnostic, Ui};

/// Runs the command.
pub fn run(args: &BenchArgs, ui: &Ui, signals: &Signals) -> ExitCode {
    let options = bench_options(args, signals.cancel_token());
    match bench::run(&options, ui) {
        Ok(report) => {
            ui.bench(&options, &report);
            ExitCode::Ok
        }
        Err(BenchError::Interrupted) => ui.interrupted(signals.exit()),
        Err(error) => ui.error(&Diagnostic::from(&error)),
    }
}
