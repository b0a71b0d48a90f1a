//! The table of contents of the program: a command, its options, what it runs, its exit code.

pub mod args;
pub mod demo;
pub mod explain;
pub mod options;
pub mod signals;

use std::time::Duration;

use clap::{CommandFactory, Parser};

use crate::app::args::{BenchArgs, Cli, Command, CommonArgs, DemoArgs, RecvArgs, SendArgs};
use crate::app::explain::{Exit, Explained};
use crate::app::options::{bench_options, recv_options, send_options};
use crate::app::signals::Signals;
use crate::bench;
use crate::recv::{Server, StopReason};
use crate::report::{Role, Ui, WriteMode};
use crate::send::{self, SendError};

/// Runs the command line of this process.
pub fn run() -> Exit {
    match Cli::parse().command {
        Command::Send(args) => with_signals(&args.common, |ui, signals| send(&args, ui, signals)),
        Command::Recv(args) => with_signals(&args.common, |ui, signals| recv(&args, ui, signals)),
        Command::Bench(args) => with_signals(&args.common, |ui, signals| bench(&args, ui, signals)),
        Command::Demo(args) => with_signals(&args.common, |ui, signals| demo(&args, ui, signals)),
    }
}

/// Signals first: what they end must not have begun.
fn with_signals(args: &CommonArgs, command: impl FnOnce(Ui, &Signals) -> Exit) -> Exit {
    let ui = Ui::new(args);
    match Signals::install(ui.interrupt_notice()) {
        Ok(signals) => command(ui, &signals),
        Err(error) => ui.error(&Explained::from(&error)),
    }
}

fn send(args: &SendArgs, mut ui: Ui, signals: &Signals) -> Exit {
    if let Err(error) = ui.open_lists(&args.list, WriteMode::Replace) {
        return ui.error(&Explained::from(&error));
    }
    let options = match send_options(args, signals.cancel_token()) {
        Ok(options) => options,
        Err(error) => return ui.error(&Explained::from(&error)),
    };
    ui.set_role(Role::Sender { host: options.target.to_string(), classic: options.classic.is_some() });
    let sent = {
        let bars = ui.session("sending");
        send::send(&options, &bars)
    };
    match sent {
        Ok(summary) => ui.sent(&summary, &options.target.to_string()),
        Err(SendError::Interrupted) => ui.interrupted(signals.exit()),
        Err(error @ SendError::InterruptedEarly) => {
            ui.not_sent(&Explained { exit: signals.exit(), ..Explained::from(&error) })
        }
        Err(error) => ui.not_sent(&Explained::from(&error)),
    }
}

fn recv(args: &RecvArgs, mut ui: Ui, signals: &Signals) -> Exit {
    raise_descriptor_limit();
    if let Err(error) = ui.open_lists(&args.list, WriteMode::Append) {
        return ui.error(&Explained::from(&error));
    }
    let server = match Server::start(recv_options(args, signals.cancel_token())) {
        Ok(server) => server,
        Err(error) => return ui.error(&Explained::from(&error)),
    };
    ui.set_role(Role::Receiver { out: server.out().to_owned() });
    ui.listening(server.bound(), server.out());
    match server.run(&ui) {
        Ok(StopReason::Served) => ui.first_failure(),
        Ok(StopReason::Interrupted) => ui.interrupted(signals.exit()),
        Err(error) => ui.error(&Explained::from(&error)),
    }
}

fn bench(args: &BenchArgs, ui: Ui, signals: &Signals) -> Exit {
    // The only error that is left to explain here.
    bench::run(&bench_options(args, signals.cancel_token()), &ui)
        .unwrap_or_else(|_| ui.interrupted(signals.exit()))
}

fn demo(args: &DemoArgs, ui: Ui, signals: &Signals) -> Exit {
    let timeout = Duration::from_secs(args.common.timeout);
    let ended = demo::run(args.path.as_deref(), timeout, &signals.cancel_token(), &ui);
    ended.unwrap_or_else(|| ui.interrupted(signals.exit()))
}

/// The usual soft limit of 1024 descriptors is for programs that use `select`. A receiver with many sessions may want
/// more, and may have what the hard limit allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // With the old limit it still works, for fewer sessions.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The text of `ftx --help`.
pub fn help() -> String {
    Cli::command().render_long_help().to_string()
}
