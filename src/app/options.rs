//! From what was typed to options that are checked.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::app::args::{BenchArgs, ClassicHow, Conflict, RecvArgs, SendArgs};
use crate::bench;
use crate::dest::local::OnConflict;
use crate::escape::Escaped;
use crate::net::AddressError;
use crate::relpath::NamePolicy;
use crate::sync::CancelToken;
use crate::wire::MAX_MEASURE_BYTES;
use crate::{recv, send};

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Only one word after `send`.
    #[error("ftx send needs what to send and, last, where to: ftx send {0} HOST")]
    NoHost(String),
    /// The last word is no host.
    #[error("{text}: {source}")]
    Host {
        /// As typed, escaped.
        text: String,
        /// What is wrong with it.
        source: AddressError,
    },
}

/// The options of `ftx send`.
pub fn send_options(args: &SendArgs, cancel: CancelToken) -> Result<send::Options, UsageError> {
    let shown = |text: &std::ffi::OsStr| Escaped::new(text.as_bytes()).to_string();
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

/// Bytes as people type them: a number, and `K`, `M` or `G` for 1024 of them, and so on. For `ftx bench --size`.
pub fn bench_size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['K', 'M', 'G', 'k', 'm', 'g']) {
        Some(digits) if text.ends_with(['K', 'k']) => (digits, 1 << 10),
        Some(digits) if text.ends_with(['M', 'm']) => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let bytes = bytes.ok_or("a size is written 1048576, 1024K, 64M or 1G")?;
    if !(MIN_BENCH_BYTES..=MAX_MEASURE_BYTES).contains(&bytes) {
        return Err("1M to 1G are possible".into());
    }
    Ok(bytes)
}

/// For `ftx recv --keep-unfinished`.
pub fn whole_days(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "whole days, 0 or more")
}

/// For `ftx recv DIR`.
pub fn no_folder_here(text: &str) -> Result<String, String> {
    Err(format!("the folder where things land is named with --out {text}"))
}

/// With less nothing but the overhead would be measured.
const MIN_BENCH_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::args::{Cli, Command};
    use crate::net::Target;
    use clap::Parser;

    fn send(words: &[&str]) -> Result<send::Options, UsageError> {
        let words = ["ftx", "send"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Send(args) => send_options(&args, CancelToken::new().unwrap()),
            other => panic!("not send: {other:?}"),
        }
    }

    #[test]
    fn the_last_word_is_the_host() {
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
    fn a_missing_host_is_explained() {
        assert!(matches!(send(&["photos"]), Err(UsageError::NoHost(_))));
        assert!(matches!(send(&["photos", "bob@nas"]), Err(UsageError::Host { .. })));
        assert!(matches!(send(&["photos", "nas:/home"]), Err(UsageError::Host { .. })));
    }

    #[test]
    fn sizes_are_bounded() {
        for (text, bytes) in [("1048576", 1 << 20), ("2048k", 2 << 20), ("64M", 64 << 20), ("1G", 1 << 30)] {
            assert_eq!(bench_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "0", "1023K", "1025M", "2G", "-1M", "1.5M", "1T", "18446744073709551616G"] {
            assert!(bench_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
