//! The table of contents of the program: a command, its options, what it runs, its exit code.

use clap::{CommandFactory, Parser};

use crate::bench;
use crate::cli::{Cli, Command};
use crate::config::{bench_options, recv_options, send_options};
use crate::demo;
use crate::error::{Exit, Explained};
use crate::recv::Server;
use crate::send;
use crate::ui::{Earlier, Ui};

/// Runs the command line of this process.
pub fn run() -> Exit {
    match Cli::parse().command {
        Command::Send(args) => {
            let mut ui = Ui::new(&args.common);
            if let Err(error) = ui.open_lists(&args.list, Earlier::Replaced) {
                return ui.error(&Explained::from(&error));
            }
            let options = match send_options(&args) {
                Ok(options) => options,
                Err(error) => return ui.error(&Explained::from(&error)),
            };
            let sent = {
                let bars = ui.session("sending");
                send::send(&options, &bars)
            };
            match sent {
                Ok(summary) => ui.sent(&summary, &options.target.to_string()),
                Err(error) => ui.not_sent(&Explained::from(&error)),
            }
        }
        Command::Recv(args) => {
            raise_descriptor_limit();
            let mut ui = Ui::new(&args.common);
            if let Err(error) = ui.open_lists(&args.list, Earlier::Kept) {
                return ui.error(&Explained::from(&error));
            }
            let server = match Server::start(recv_options(&args)) {
                Ok(server) => server,
                Err(error) => return ui.error(&Explained::from(&error)),
            };
            let served = server.local_addr().and_then(|addr| {
                ui.listening(addr, server.out());
                server.run(&ui)
            });
            match served {
                Ok(()) => ui.first_failure(),
                Err(error) => ui.error(&Explained::from(&error)),
            }
        }
        Command::Bench(args) => {
            let ui = Ui::new(&args.common);
            bench::run(&bench_options(&args), &ui)
        }
        Command::Demo(args) => {
            let ui = Ui::new(&args.common);
            let timeout = std::time::Duration::from_secs(args.common.timeout);
            demo::run(args.path.as_deref(), timeout, &ui)
        }
    }
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
