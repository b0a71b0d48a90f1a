//! Checked options from the command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::app::args::{BenchArgs, ClassicHow, CommonArgs, Conflict, ProgressWhen, RecvArgs, SendArgs};
use crate::bench;
use crate::dest::local::OnConflict;
use crate::escape::Escaped;
use crate::net::AddressError;
use crate::relpath::NamePolicy;
use crate::sync::CancelToken;
use crate::{recv, report, send};

/// An invalid command line.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Only one argument after `send`.
    #[error("at least one PATH and, last, the HOST are needed: ftx send {0} HOST")]
    NoHost(String),
    /// The last argument is not a valid host.
    #[error("{text}: {source}")]
    Host {
        /// As typed, escaped.
        text: String,
        /// Why it is invalid.
        source: AddressError,
    },
}

/// What to print.
pub fn report_options(args: &CommonArgs) -> report::OutputOptions {
    let has_bars = match args.progress {
        ProgressWhen::Auto => std::io::stderr().is_terminal() && !args.quiet,
        ProgressWhen::Always => true,
        ProgressWhen::Never => false,
    };
    report::OutputOptions { quiet: args.quiet, has_bars }
}

/// The options of `ftx send`.
///
/// # Errors
///
/// The host is missing or invalid.
pub fn send_options(args: &SendArgs, cancel: CancelToken) -> Result<send::Options, UsageError> {
    let shown = |text: &std::ffi::OsStr| Escaped::new(text.as_encoded_bytes()).to_string();
    let (host, paths) = match &args.paths_and_host[..] {
        [paths @ .., host] if !paths.is_empty() => (host, paths),
        [only, ..] => return Err(UsageError::NoHost(shown(only))),
        [] => return Err(UsageError::NoHost("PATH".into())),
    };
    let target = host.to_string_lossy().parse();
    let target = target.map_err(|source| UsageError::Host { text: shown(host), source })?;
    Ok(send::Options {
        paths: paths.iter().map(PathBuf::from).collect(),
        target,
        port: args.port,
        classic: args.classic.map(|how| match how {
            ClassicHow::Row => send::Classic::OneConnection,
            ClassicHow::Each => send::Classic::ConnectionPerFile,
        }),
        streams: args.streams.map_or(send::Streams::Auto, send::Streams::Fixed),
        timeout: Duration::from_secs(args.common.timeout),
        retries: args.retries,
        whole_digests: args.list.is_wanted(),
        cancel,
    })
}

/// The options of `ftx recv`.
pub fn recv_options(args: &RecvArgs, cancel: CancelToken) -> recv::Options {
    recv::Options {
        bind: args.bind.clone(),
        port: args.port,
        out: args.out.clone(),
        on_conflict: match args.on_conflict {
            Conflict::SkipSame => OnConflict::SkipSame,
            Conflict::Overwrite => OnConflict::Overwrite,
            Conflict::Rename => OnConflict::Rename,
            Conflict::Error => OnConflict::Error,
        },
        names: if args.allow_odd_names { NamePolicy::AllowOdd } else { NamePolicy::Strict },
        sessions: if args.once { Some(1) } else { args.count },
        timeout: Duration::from_secs(args.common.timeout),
        keep_unfinished: Duration::from_secs(u64::from(args.keep_unfinished) * 24 * 60 * 60),
        whole_digests: args.list.is_wanted(),
        cancel,
    }
}

/// The options of `ftx bench`.
pub fn bench_options(args: &BenchArgs, cancel: CancelToken) -> bench::Options {
    bench::Options {
        host: args.host.clone(),
        port: args.port,
        dir: args.dir.clone(),
        size_bytes: args.size,
        timeout: Duration::from_secs(args.common.timeout),
        cancel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::args::{Cli, Command};
    use crate::net::Target;
    use clap::Parser;

    fn send(arguments: &[&str]) -> Result<send::Options, UsageError> {
        let arguments = ["ftx", "send"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).unwrap().command {
            Command::Send(args) => send_options(&args, CancelToken::new().unwrap()),
            other => panic!("not send: {other:?}"),
        }
    }

    #[test]
    fn the_last_argument_is_the_host() {
        let options = send(&["a", "b", "-p", "80", "nas"]).unwrap();
        assert_eq!(options.paths, ["a", "b"].map(PathBuf::from));
        assert_eq!((options.target.to_string().as_str(), options.port), ("nas", 80));
        assert_eq!(send(&["-r", "a", "[::1]:9"]).unwrap().target, "[::1]:9".parse().unwrap());
        assert_eq!(send(&["a", "unix:/run/s"]).unwrap().target, Target::Unix("/run/s".into()));
        assert_eq!(send(&["--classic", "a", "h"]).unwrap().classic, Some(send::Classic::OneConnection));
        assert_eq!(
            send(&["--classic=each", "a", "h"]).unwrap().classic,
            Some(send::Classic::ConnectionPerFile)
        );
    }

    #[test]
    fn a_missing_or_invalid_host_is_refused() {
        assert!(matches!(send(&["photos"]), Err(UsageError::NoHost(_))));
        assert!(matches!(send(&["photos", "bob@nas"]), Err(UsageError::Host { .. })));
        assert!(matches!(send(&["photos", "nas:/home"]), Err(UsageError::Host { .. })));
    }
}
