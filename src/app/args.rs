//! The command line, as it is typed. `config` turns it into checked options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::net::{BindTo, Target};

/// Moves files and folders to another machine, checked by MD5 and durable before it says so.
#[derive(Debug, Parser)]
#[command(name = "ftx", version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ftx demo                               see it work, on this machine alone
  ftx recv --out inbox                   on the machine that receives
  ftx send report.pdf photos/ 10.0.0.5   on the machine that sends
  ftx bench 10.0.0.5                     what limits a transfer to it

When `ftx send` exits with 0, every byte is at the other end, checked, under its final name and on
stable storage (but with --classic: such receivers confirm nothing). Exit codes: 0 all done; 1 other failure; 2 usage; 10 connection; 11 file system;
12 protocol; 23 some entries not transferred; 24 a source changed or vanished; 30 timeout;
35 cannot connect; 40 digest mismatch; 41 refused; 42 no space; 130 Ctrl-C; 143 SIGTERM.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send files and folders to a machine where `ftx recv` runs
    #[command(after_help = SEND_HELP, override_usage = "ftx send [OPTIONS] PATH... HOST[:PORT]")]
    Send(SendArgs),
    /// Receive what others send into a folder, until Ctrl-C
    #[command(after_help = RECV_HELP)]
    Recv(RecvArgs),
    /// Send something from this machine to itself and show both ends
    Demo(DemoArgs),
    /// Measure what disk, MD5 and wire can do, each alone and then together, and say which one limits
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
}

const SEND_HELP: &str = "\
Examples:
  ftx send disk.img nas                    one file to the host nas, port 7373
  ftx send photos/ notes.txt 10.0.0.5:7400 a folder and a file, another port
  ftx send backup '[2001:db8::5]:7400'     an IPv6 address with a port
  ftx send --manifest photos.md5 photos nas   and what `md5sum -c` needs to check it in a year

A folder lands under its own name, with everything in it. What is there already and identical is
skipped; something different under the same name is reported and left alone (exit code 23), unless
the receiver was started with another --on-conflict. Symbolic links that stay inside what is sent
travel as links; others, and devices, FIFOs and sockets, are reported and left out.

Ctrl-C ends it within a second and says what is stored by then; send the same again to go on. A
second Ctrl-C ends it at once.";

const RECV_HELP: &str = "\
Examples:
  ftx recv                                 into this folder, port 7373, until Ctrl-C
  ftx recv --out inbox --once              one session, then end with a code that tells how it went
  ftx recv --bind 127.0.0.1 --port 0       this machine only, any free port
  ftx recv --out inbox --manifest in.md5   with a list: cd inbox && md5sum -c ../in.md5

A file gets its final name when it is complete, checked and on stable storage; until then it is a
hidden file that begins with .ftx- beside it. Ctrl-C or SIGTERM ends it within a second, sessions in
work too: their senders are told, and what is in place stays. The exit code is then 130 or 143,
however the sessions went; a second Ctrl-C ends it at once. Senders need no account here: whoever reaches the
port can send, so open it in networks that you trust, or bind it to an address that is.";

const BENCH_HELP: &str = "\
Examples:
  ftx bench                                this machine alone, both ends on it
  ftx bench nas                            to the host nas, where `ftx recv` runs
  ftx bench --dir /mnt/backup --size 1G    the disk behind another folder, with more bytes

A transfer passes four stages: reading the disk, MD5, the wire, writing the disk. Each is measured
alone, with --size bytes and for about a second. Without HOST the file is then really transferred,
from this machine to itself. With HOST the receiver measures its MD5 and its disk as well, and takes
bytes from the wire that it throws away; nothing is transferred, and nothing is left at either end.
The last line says which stage limits.

Disk read is measured with a file that the system was asked to drop from memory. MD5 is shown for
one stream, which is what md5sum does, and for many parts side by side, which is what a transfer
does. Disk write counts until everything is on stable storage. Ctrl-C removes the hidden folder,
.ftx-bench-..., too.";

/// `ftx send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// What to send, and last the host that receives, with a port if it is not the usual one
    #[arg(value_name = "PATH... HOST", num_args = 1.., required = true)]
    pub paths_and_host: Vec<OsString>,
    /// The receiver's port, where HOST names none
    #[arg(short, long, visible_short_alias = 'P', default_value_t = crate::net::DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Speak the plain dialect of small textbook programs: no receipt, no folders of its own, no links.
    ///
    /// With `each`, every file gets a connection of its own, for receivers that close after one.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "row")]
    pub classic: Option<ClassicHow>,
    /// Connections to spread the bytes over, 1 to 8 [default: one, and more while they make it faster]
    #[arg(short = 'j', long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::send::MAX_STREAMS)))]
    pub streams: Option<u32>,
    /// Attempts after a failure: 2 to find the receiver, 10 when a connection is lost; they are counted anew when more
    /// is stored or kept in between, and what is there does not move again
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// The lists.
    #[command(flatten)]
    pub list: ListArgs,
    /// What all commands understand.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Folders are sent with everything in them anyway; accepted for those used to typing it
    #[arg(short = 'r', short_alias = 'a', hide = true)]
    pub habit: bool,
}

/// `ftx recv`.
#[derive(Debug, Args)]
pub struct RecvArgs {
    /// The port to listen on; 0 takes any that is free and says which
    #[arg(short, long, visible_short_alias = 'P', default_value_t = crate::net::DEFAULT_PORT)]
    pub port: u16,
    /// The address to listen on [default: all of them, IPv6 and IPv4]
    #[arg(short, long, value_name = "ADDR")]
    pub bind: Option<BindTo>,
    /// The folder where things land; made if it is missing
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// End after one session, with a code that tells how it went (a port scan is no session)
    ///
    /// If its connection is lost, its sender has 30 seconds to come back, or --timeout if that is less.
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// End after N sessions, as with --once, with the code of the first that failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// How many days what came of a file is kept when its session was cut, for the sender to go on there; 0 removes
    /// all such files at the start
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = crate::app::options::whole_days)]
    pub keep_unfinished: u32,
    /// What to do when something else has the name of what comes; what is identical is skipped, unless HOW is error
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Conflict::SkipSame)]
    pub on_conflict: Conflict,
    /// Not taken: for those who expect the folder here
    #[arg(hide = true, value_name = "DIR", value_parser = crate::app::options::no_folder_here)]
    pub habit: Option<String>,
    /// Take names with control characters (they are escaped wherever they are shown)
    #[arg(long)]
    pub allow_odd_names: bool,
    /// The lists.
    #[command(flatten)]
    pub list: ListArgs,
    /// What all commands understand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `--md5sum` and `--manifest`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a line for each file, as md5sum does: for `md5sum -c` in the receiver's folder
    ///
    /// A file has its line once it is in place and durable, moved now or found identical; what failed has none. (With
    /// `ftx send --classic`, where nobody confirms anything, once it is sent.) Names are as in the receiver's folder,
    /// but of a file that lands under another name only the receiver knows that. The digest is that of the whole
    /// file: sending takes it from the file read here, receiving from the bytes that landed; a file that changes
    /// before that has no line, and the exit code is 24. It is taken while the transfer goes on; but the MD5 of a
    /// single stream cannot be split, so that a huge file takes as long as md5sum takes for it, holes too (about
    /// 0.6 GB/s; several files run side by side). All other messages go to standard error then.
    #[arg(long)]
    pub md5sum: bool,
    /// Write the lines of --md5sum to FILE, for `md5sum -c FILE` in the receiver's folder
    ///
    /// `ftx send` replaces FILE in one step when the session has come to its end; if it breaks, FILE stays as it was.
    /// `ftx recv` adds the lines of each session to FILE, on stable storage, when that session ends, however it ends:
    /// a file that comes again has a line again, and the last one counts. Keep FILE where no sender can overwrite it. That
    /// it can be written is made sure before anything moves (otherwise exit code 11).
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

impl ListArgs {
    /// Is any list asked for?
    pub fn is_wanted(&self) -> bool {
        self.md5sum || self.manifest.is_some()
    }
}

/// `ftx demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What to send [default: a sample of some hundred small files and one of 256 MiB]
    pub path: Option<PathBuf>,
    /// What all commands understand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `ftx bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Where `ftx recv` runs, with a port if it is not the usual one [default: this machine alone]
    pub host: Option<Target>,
    /// The receiver's port, where HOST names none
    #[arg(short, long, visible_short_alias = 'P', default_value_t = crate::net::DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The folder whose disk is measured; a hidden folder is made in it and removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Bytes that go through each stage at most, 1M to 1G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = crate::app::options::bench_size)]
    pub size: u64,
    /// What all commands understand.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// A day: a peer that is silent for longer is gone.
const MAX_TIMEOUT_S: u64 = 24 * 60 * 60;

/// What all commands understand.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// How long the other side may be silent, in seconds; a day at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_S))]
    pub timeout: u64,
    /// Only errors
    #[arg(short, long)]
    pub quiet: bool,
    /// When to show progress bars: auto shows them on a terminal
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ProgressWhen::Auto)]
    pub progress: ProgressWhen,
}

/// `--classic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassicHow {
    /// All files in a row on one connection
    Row,
    /// A connection for each file
    Each,
}

/// `--on-conflict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Conflict {
    /// Keep what is there; what is different does not land, and its sender is told
    SkipSame,
    /// Replace what is there, but no folder
    Overwrite,
    /// Keep both: what comes lands as name (1).ext
    Rename,
    /// Keep what is there; not even an identical file is taken
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
