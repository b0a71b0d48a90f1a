//! The program: parses the command line, runs a command, returns its exit code.

pub mod args;
mod bench;
mod demo;
mod explain;
mod observer;
mod options;
mod recv;
mod send;
mod signals;
mod values;

use clap::Parser;

use crate::exit_code::ExitCode;
use crate::report::{Diagnostic, Ui};

use args::{Cli, Command, CommonArgs};
use signals::Signals;

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Send(args) => with_signals(&args.common, |ui, signals| send::run(&args, ui, signals)),
        Command::Recv(args) => with_signals(&args.common, |ui, signals| recv::run(&args, ui, signals)),
        Command::Bench(args) => with_signals(&args.common, |ui, signals| bench::run(&args, &ui, signals)),
        Command::Demo(args) => with_signals(&args.common, |ui, signals| demo::run(&args, &ui, signals)),
    }
}

/// Installs the signals before the command starts threads or creates files.
fn with_signals(args: &CommonArgs, command: impl FnOnce(Ui, &Signals) -> ExitCode) -> ExitCode {
    let ui = Ui::new(options::report_options(args));
    match Signals::install(ui.interrupt_notice()) {
        Ok(signals) => command(ui, &signals),
        Err(error) => ui.error(&Diagnostic::from(&error)),
    }
}
