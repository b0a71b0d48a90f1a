//! `ftx send`.

use crate::app::args::SendArgs;
use crate::app::options::send_options;
use crate::app::signals::Signals;
use crate::exit_code::ExitCode;
use crate::report::{Diagnostic, Role, Ui, WriteMode};
use crate::send::{self, SendError};

/// Runs the command.
pub fn run(args: &SendArgs, mut ui: Ui, signals: &Signals) -> ExitCode {
    let lists = ui.open_lists(args.list.md5sum, args.list.manifest.as_deref(), WriteMode::Replace);
    if let Err(error) = lists {
        return ui.error(&Diagnostic::from(&error));
    }
    let options = match send_options(args, signals.cancel_token()) {
        Ok(options) => options,
        Err(error) => return ui.error(&Diagnostic::from(&error)),
    };
    let host = options.target.to_string();
    ui.set_role(Role::Sender { host: host.clone(), classic: options.classic.is_some() });
    let sent = {
        let session = ui.session("sending");
        send::send(&options, &session)
    };
    match sent {
        Ok(summary) => ui.sent(&summary, &host),
        Err(SendError::Interrupted) => ui.interrupted(signals.exit()),
        Err(error @ SendError::InterruptedEarly) => {
            ui.not_sent(&Diagnostic { exit: signals.exit(), ..Diagnostic::from(&error) })
        }
        Err(error) => ui.not_sent(&Diagnostic::from(&error)),
    }
}
