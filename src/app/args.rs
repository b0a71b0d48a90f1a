//! The command line as it is typed. `options` turns it into checked options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::values;
use crate::net::{BindTo, DEFAULT_PORT, Target};

/// Examples come before everything else.
const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}";

/// Copy files and folders to another machine, verified by MD5 and durable
#[derive(Debug, Parser)]
#[command(name = "ftx", version, max_term_width = 100, arg_required_else_help = true, help_template = TEMPLATE)]
#[command(before_help = EXAMPLES, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ftx recv --out inbox                   # on the machine that receives
  ftx send report.pdf photos/ 10.0.0.5   # on the machine that sends
  ftx demo                               # both ends on this machine
  ftx bench 10.0.0.5                     # find the bottleneck of a transfer";

const EXIT_CODES: &str = "\
When `ftx send` exits with 0, every file is at the receiver: verified, under its final name and on stable storage (with \
--classic the receiver confirms nothing).

Exit codes: 0 all done; 1 other failure; 2 usage; 10 connection; 11 file system; 12 protocol; 23 some entries not \
transferred; 24 a source changed or vanished; 30 timeout; 35 cannot connect; 40 digest mismatch; 41 refused; 42 no space; \
130 Ctrl-C; 143 SIGTERM.";

/// A command and its options.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send files and folders to a machine that runs `ftx recv`
    #[command(help_template = TEMPLATE, before_help = SEND_EXAMPLES, after_long_help = SEND_NOTES,
              override_usage = "ftx send [OPTIONS] PATH... HOST[:PORT]")]
    Send(SendArgs),
    /// Receive files and folders until Ctrl-C
    #[command(help_template = TEMPLATE, before_help = RECV_EXAMPLES, after_long_help = RECV_NOTES)]
    Recv(RecvArgs),
    /// Send a sample from this machine to itself and show both ends
    #[command(help_template = TEMPLATE, before_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Measure disk, MD5 and network, and name the bottleneck
    #[command(help_template = TEMPLATE, before_help = BENCH_EXAMPLES, after_long_help = BENCH_NOTES)]
    Bench(BenchArgs),
}

const SEND_EXAMPLES: &str = "\
Examples:
  ftx send disk.img nas                   # to the host nas, port 7373
  ftx send photos/ a.txt 10.0.0.5:7400    # a folder and a file, other port
  ftx send photos/ '[2001:db8::5]:7400'   # an IPv6 address with a port
  ftx send --manifest p.md5 photos/ nas   # and a list for `md5sum -c`";

const SEND_NOTES: &str = "\
A folder keeps its name and is sent with everything in it. Identical files at the receiver are skipped. A different file \
with the same name is reported and not replaced (exit code 23), unless the receiver runs with another --on-conflict.

Symbolic links that point inside the transfer are sent as links. Other links, devices, FIFOs and sockets are reported and \
skipped.

Ctrl-C ends the transfer within a second and prints what is stored. Send the same again to resume. A second Ctrl-C ends it \
at once.";

const RECV_EXAMPLES: &str = "\
Examples:
  ftx recv                                 # into this folder, until Ctrl-C
  ftx recv --out inbox --once              # one session, with its exit code
  ftx recv --bind 127.0.0.1 --port 0       # this machine only, any free port
  ftx recv --out inbox --manifest in.md5   # and a list for `md5sum -c`";

const RECV_NOTES: &str = "\
Anyone who can reach the port can send: use it only in trusted networks, or bind it to a trusted address.

A file gets its final name when it is complete, verified and on stable storage. Until then it is a hidden file in the same \
folder, whose name begins with .ftx-.

Ctrl-C or SIGTERM ends the receiver and its sessions within a second; complete files stay. The exit code is then 130 or \
143, whatever the results of the sessions. A second Ctrl-C ends it at once.";

const DEMO_EXAMPLES: &str = "\
Examples:
  ftx demo           # a sample
  ftx demo photos/   # your own files";

const BENCH_EXAMPLES: &str = "\
Examples:
  ftx bench                               # this machine alone, both ends
  ftx bench nas                           # to nas, which runs `ftx recv`
  ftx bench --dir /mnt/backup --size 1G   # the disk of another folder";

const BENCH_NOTES: &str = "\
A transfer has four stages: disk read, MD5, wire, disk write. Each is measured alone, for about a second. Without HOST, a \
file is then transferred from this machine to itself. With HOST, the receiver measures its MD5 and its disk, and discards \
the bytes of the wire; nothing is transferred or stored. The last line names the bottleneck.

Disk read uses a file that the system was asked to drop from memory. MD5 has two rows: one stream, like md5sum, and many \
parts in parallel, like a transfer. Disk write includes the sync. The hidden folder .ftx-bench-... is removed at the end.";

/// `ftx send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Files and folders to send, and last the receiving host, with a port if it is not the default
    #[arg(value_name = "PATH... HOST", num_args = 1.., required = true)]
    pub paths_and_host: Vec<OsString>,
    /// Port of the receiver, if HOST has none
    #[arg(short, long, visible_short_alias = 'P', default_value_t = DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Use the classic dialect, a simple protocol without receipts, folder entries and links
    ///
    /// With `each`, every file gets its own connection, for receivers that close after one file.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "row")]
    pub classic: Option<ClassicHow>,
    /// Number of connections, 1 to 8 [default: 1, and more while they raise the rate]
    #[arg(short = 'j', long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::send::MAX_STREAMS)))]
    pub streams: Option<u32>,
    /// Retries after a failure [default: 2 for the first connection, 10 after a lost one]; progress resets the count
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Checksum lists.
    #[command(flatten)]
    pub list: ListArgs,
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Ignored: folders are always sent with their content
    #[arg(short = 'r', short_alias = 'a', hide = true)]
    pub ignored_recursive: bool,
}

/// `ftx recv`.
#[derive(Debug, Args)]
pub struct RecvArgs {
    /// Port to listen on; 0 takes a free one and prints it
    #[arg(short, long, visible_short_alias = 'P', default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Address to listen on [default: all, IPv6 and IPv4]
    #[arg(short, long, value_name = "ADDR")]
    pub bind: Option<BindTo>,
    /// The destination folder; created if missing
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// End after one session, with its result as exit code (a port scan is no session)
    ///
    /// If the connection is lost, the sender has 30 seconds to reconnect, or --timeout if that is less.
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// End after N sessions, like --once, with the exit code of the first that failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Days to keep partial files of interrupted sessions for resume; 0 removes them at the start
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = values::whole_days)]
    pub keep_unfinished: u32,
    /// What to do if the name is taken; identical files are skipped, unless HOW is error
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Conflict::SkipSame)]
    pub on_conflict: Conflict,
    /// Refused with a hint at --out
    #[arg(hide = true, value_name = "DIR", value_parser = values::no_folder_here)]
    pub refused_dir: Option<String>,
    /// Accept names with control characters (they are escaped wherever they are printed)
    #[arg(long)]
    pub allow_odd_names: bool,
    /// Checksum lists.
    #[command(flatten)]
    pub list: ListArgs,
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `--md5sum` and `--manifest`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a line per file, as md5sum does, for `md5sum -c` in the receiver's folder
    ///
    /// A file gets its line when it is stored and durable, or found identical (with --classic, when it is sent). A file
    /// that failed gets none; nor does a source that changed before it was hashed (exit code 24). Names are those in the
    /// receiver's folder; a sender does not know of files stored under another name.
    ///
    /// Each file is hashed as one stream, holes included, at the speed of md5sum (about 0.6 GB/s per file), so that the
    /// list of a huge file may take longer than its transfer. All other messages go to standard error.
    #[arg(long)]
    pub md5sum: bool,
    /// Write the lines of --md5sum to FILE
    ///
    /// `ftx send` replaces FILE in one step when the session reaches its end; if it fails, FILE stays unchanged. `ftx
    /// recv` appends the lines of each session and syncs FILE when the session ends; if a file was received twice, its
    /// last line counts. FILE must be writable from the start (otherwise exit code 11). Keep it where no sender can
    /// overwrite it.
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

impl ListArgs {
    /// Whether any list is wanted.
    pub fn is_wanted(&self) -> bool {
        self.md5sum || self.manifest.is_some()
    }
}

/// `ftx demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What to send [default: a sample of 300 small files and one of 256 MiB]
    pub path: Option<PathBuf>,
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `ftx bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A host that runs `ftx recv`, with a port if it is not the default [default: this machine alone]
    pub host: Option<Target>,
    /// Port of the receiver, if HOST has none
    #[arg(short, long, visible_short_alias = 'P', default_value_t = DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The folder whose disk is measured, in a hidden folder that is removed at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Maximal bytes per stage, 1M to 1G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = values::bench_size)]
    pub size: u64,
    /// Common options.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Upper limit of `--timeout`: a day.
const MAX_TIMEOUT_S: u64 = 24 * 60 * 60;

/// Options of all commands.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Seconds without data before a connection counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_S))]
    pub timeout: u64,
    /// Print only errors
    #[arg(short, long)]
    pub quiet: bool,
    /// When to show progress bars
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ProgressWhen::Auto)]
    pub progress: ProgressWhen,
}

/// `--classic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassicHow {
    /// All files on one connection, one after another
    Row,
    /// A connection for each file
    Each,
}

/// `--on-conflict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Conflict {
    /// Keep the existing file; a different one is refused
    SkipSame,
    /// Replace the existing file or link, but not a folder
    Overwrite,
    /// Keep both: the new file is stored as name (1).ext
    Rename,
    /// Keep the existing file; even an identical one is refused
    Error,
}

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressWhen {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Longer lines are wrapped on a terminal of 80 columns.
    #[test]
    fn examples_fit_in_80_columns() {
        for examples in [EXAMPLES, SEND_EXAMPLES, RECV_EXAMPLES, DEMO_EXAMPLES, BENCH_EXAMPLES] {
            assert!(examples.lines().all(|line| line.len() <= 80), "{examples}");
        }
    }
}
