//! `ftx recv`.

use crate::app::args::RecvArgs;
use crate::app::observer::SessionObserver;
use crate::app::options::recv_options;
use crate::app::signals::Signals;
use crate::exit_code::ExitCode;
use crate::recv::{Server, StopReason};
use crate::report::{Diagnostic, Role, Ui, WriteMode};
use crate::sys::limits;

/// Runs the command.
pub fn run(args: &RecvArgs, mut ui: Ui, signals: &Signals) -> ExitCode {
    limits::raise_descriptor_limit();
    let lists = ui.open_lists(args.list.md5sum, args.list.manifest.as_deref(), WriteMode::Append);
    if let Err(error) = lists {
        return ui.error(&Diagnostic::from(&error));
    }
    let server = match Server::start(recv_options(args, signals.cancel_token())) {
        Ok(server) => server,
        Err(error) => return ui.error(&Diagnostic::from(&error)),
    };
    ui.set_role(Role::Receiver { out: server.out().to_owned() });
    ui.listening(server.bound(), server.out());
    match server.run(&SessionObserver::new(&ui)) {
        Ok(StopReason::Served) => ui.first_failure(),
        Ok(StopReason::Interrupted) => ui.interrupted(signals.exit()),
        Err(error) => ui.error(&Diagnostic::from(&error)),
    }
}
