//! The command line: what there is, and the help that teaches it. The build makes man pages and completions from it, so
//! this file uses nothing of the rest.

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

const ENVIRONMENT: &str = "\
Environment (the flags of `remora run` set the same names; with LD_PRELOAD they work without it):
  REMORA_IFACE     network interface, e.g. eth0
  REMORA_ADDR      our address a.b.c.d/len, or `iface`: the interface's own
  REMORA_GATEWAY   default gateway
  REMORA_MAC       our link address (derived from address and interface)
  REMORA_MTU       largest IP packet, 68 to 65535 (the interface's)
  REMORA_DEVICE    packet, portable, unix:PATH, unix:@NAME or unix:fd:N (packet)
  REMORA_LOOPBACK  who serves 127.0.0.0/8: kernel or stack (kernel)
  REMORA_DNS       who asks name servers: stack, kernel, or the servers a.b.c.d[:port],... that the
                   stack is to ask instead of resolv.conf's (stack)
  REMORA_INTERFACES
                   whose addresses getifaddrs and SIOCGIFCONF show: both, stack or kernel (both)
  REMORA_LOG       off, error, warn, info, debug or trace (warn)
  REMORA_LOG_FILE  file that the log is appended to (stderr)
  REMORA_PCAP      file that every frame is written to, in pcapng
  REMORA_SYSCTL    \"net.ipv4.tcp_sack=0;...\": `remora config` lists all names
  REMORA_STRICT    1: without a stack, sockets fail instead of being the kernel's
  REMORA_RULES     who may do what, and who serves it; the first rule that matches wins:
                   \"deny=ECONNREFUSED call=connect port=25; kernel address=10.1.0.0/16; stack\"
                   VERDICT is allow, deny, deny=ERRNO, kernel or stack; keys are call (connect,
                   bind, listen, send), protocol (tcp, udp, icmp, raw), address, port, program
  REMORA_EXPLAIN   1: a line for each decision between kernel and stack
  REMORA_SUMMARY   1: a line at exit: how many sockets went to the kernel, and why
  REMORA_COUNTERS  1: at exit, a line for each counter that is not zero
  REMORA_DEEP      1: system calls that the program makes itself, past libc (Go, assembler), are
                   caught too
  REMORA_CONFIG    TOML file with keys iface, addr, gateway, mac, mtu, device, loopback, dns,
                   interfaces, log, log_file, pcap, strict, rules, explain, summary, counters, deep and a
                   table [sysctl]; a variable wins over it
  REMORA_LIB       libremora.so, when it is not beside `remora` or in ../lib";

const EXAMPLES: &str = "\
Examples:
  remora demo                       see a connection from the inside, no rights needed
  remora run --iface eth0 --addr 192.168.1.77/24 --gateway 192.168.1.1 -- curl http://example.org/
  remora run --iface veth0 --addr 10.0.0.2/24 --pcap /tmp/x.pcapng nc 10.0.0.1 80
  remora config --iface eth0        every value with its source";

const RUN_HELP: &str = "\
Without `remora run` the same is
  LD_PRELOAD=/path/to/libremora.so REMORA_IFACE=eth0 REMORA_ADDR=192.168.1.77/24 PROGRAM

The address must be a free one of the interface's network: not the kernel's own, which would
answer our peers with resets. Static programs, programs with the setuid bit or file
capabilities, and 32-bit programs cannot carry a preloaded library; `remora run` says so
instead of starting them on the kernel's network. With --static a program needs to carry none:
a process beside it makes and names its sockets, and what it starts is served in the same way.
Dynamic programs that make system calls of their own (Go with cgo) are better off with --deep.

Exit status: the program's own; before it starts
  2    something is missing or wrong; the message says what to do
  126  the program was found but cannot be run
  127  the program was not found";

/// Runs programs on a TCP/IP stack of their own, inside the process.
#[derive(Parser, Debug)]
#[command(name = "remora", version, about, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{ENVIRONMENT}"))]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a program with its sockets on remora's stack
    #[command(after_help = "More with --help.", after_long_help = format!("{RUN_HELP}\n\n{ENVIRONMENT}"))]
    Run(Run),
    /// Print every configuration value with its source
    #[command(after_long_help = ENVIRONMENT)]
    Config(Config),
    /// Print what the programs that run on remora in this network namespace have counted, under Linux's names
    Counters(Watch),
    /// List the sockets of the programs that run on remora in this network namespace
    Sockets(Watch),
    /// List whom these programs know on the link, as `ip neighbour` does
    Neighbours(Watch),
    /// List the routes of these programs, as `ip route` does
    Routes(Watch),
    /// Show one connection from the inside: curl's calls, the layers they pass, and each frame
    Demo(Demo),
    /// One side of the demo's link, in a network namespace of its own
    #[command(name = "__stage", hide = true)]
    Stage(Stage),
    /// The process beside a program of `remora run --static`
    #[command(name = "__supervise", hide = true)]
    Supervise(Supervise),
    /// The demo's web server
    #[command(name = "__serve", hide = true)]
    Serve(Serve),
    /// Write the man pages and shell completions below a directory
    #[command(name = "__generate", hide = true)]
    Generate {
        /// Directory; man/ and completions/ are made in it.
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// Flags that stand for `REMORA_*` variables.
#[derive(Args, Debug, Clone, Default)]
pub struct Network {
    /// Network interface (REMORA_IFACE)
    #[arg(long, value_name = "NAME")]
    pub iface: Option<String>,
    /// Our address with its prefix length, or `iface` for the interface's own (REMORA_ADDR)
    #[arg(long, value_name = "A.B.C.D/LEN")]
    pub addr: Option<String>,
    /// Default gateway (REMORA_GATEWAY)
    #[arg(long, value_name = "A.B.C.D")]
    pub gateway: Option<String>,
    /// Our link-layer address (REMORA_MAC)
    #[arg(long, value_name = "AA:BB:CC:DD:EE:FF")]
    pub mac: Option<String>,
    /// Largest IP packet in bytes (REMORA_MTU)
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<String>,
    /// packet, portable, unix:PATH, unix:@NAME or unix:fd:N (REMORA_DEVICE)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Write every frame to this file, in pcapng (REMORA_PCAP)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pcap: Option<PathBuf>,
    /// off, error, warn, info, debug or trace (REMORA_LOG)
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Append the log to this file instead of stderr (REMORA_LOG_FILE)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_file: Option<PathBuf>,
    /// Who serves 127.0.0.0/8: kernel or stack (REMORA_LOOPBACK)
    #[arg(long, value_name = "WHO")]
    pub loopback: Option<String>,
    /// Who asks name servers: stack, kernel, or servers as a.b.c.d or a.b.c.d:port (REMORA_DNS)
    #[arg(long, value_name = "SERVERS")]
    pub dns: Option<String>,
    /// Whose addresses the program is shown: both, stack or kernel (REMORA_INTERFACES)
    #[arg(long, value_name = "WHOSE")]
    pub interfaces: Option<String>,
    /// Set a sysctl of the stack; may be repeated (REMORA_SYSCTL)
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// TOML file; flags and variables win over it (REMORA_CONFIG)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// A policy rule, as in "deny=ECONNREFUSED call=connect port=25"; may be repeated, the first match wins
    /// (REMORA_RULES)
    #[arg(long, value_name = "RULE")]
    pub rule: Vec<String>,
    /// Print a line for each decision between kernel and stack, and which rule made it (REMORA_EXPLAIN=1)
    #[arg(long)]
    pub explain: bool,
    /// Print a line at exit: how many sockets went to the kernel, and why (REMORA_SUMMARY=1)
    #[arg(long)]
    pub summary: bool,
    /// Print each counter that is not zero at exit (REMORA_COUNTERS=1)
    #[arg(long)]
    pub counters: bool,
    /// Catch system calls that the program makes itself, past libc, as Go and assembler do (REMORA_DEEP=1)
    #[arg(long)]
    pub deep: bool,
    /// Sockets fail when there is no stack, instead of being the kernel's (REMORA_STRICT=1)
    #[arg(long)]
    pub strict: bool,
}

/// `remora run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Flags that stand for variables.
    #[command(flatten)]
    pub network: Network,
    /// Serve the program from a process beside it, by way of a seccomp filter: for static programs, Go's too
    #[arg(long = "static", conflicts_with = "deep")]
    pub served: bool,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub program: Vec<OsString>,
}

/// `remora config`.
#[derive(Args, Debug)]
pub struct Config {
    /// Flags that stand for variables.
    #[command(flatten)]
    pub network: Network,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `remora counters`, `remora sockets`, `remora neighbours` and `remora routes`.
#[derive(Args, Debug)]
pub struct Watch {
    /// Only the program that this process belongs to
    pub pid: Option<u32>,
    /// Counters that are zero too
    #[arg(long)]
    pub all: bool,
    /// Of sockets: round trip, window, timeout and repetitions of each connection
    #[arg(long, short)]
    pub info: bool,
}

/// When to colour.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How the demo's two ends are joined.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A namespace if one can be made, else a socket
    Auto,
    /// A veth pair between network namespaces, the kernel's stack at the far end
    Namespace,
    /// A unix socket, remora's stack at both ends
    Unix,
}

/// `remora demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// When to colour
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// How the two ends are joined
    #[arg(long, value_enum, default_value_t = Link::Auto)]
    pub link: Link,
    /// Keep log, capture and page in this new directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub keep: Option<PathBuf>,
}

/// `remora __stage`.
#[derive(Args, Debug)]
pub struct Stage {
    /// Directory for log, capture and page.
    pub directory: PathBuf,
    /// The preloaded library.
    pub library: PathBuf,
    /// The client.
    pub curl: PathBuf,
}

/// `remora __supervise`.
#[derive(Args, Debug)]
pub struct Supervise {
    /// Descriptor over which the filter's notifier comes.
    pub link: i32,
    /// The preloaded library.
    pub library: PathBuf,
}

/// `remora __serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Interface to set up first, once a line has come on stdin.
    #[arg(long)]
    pub interface: Option<String>,
    /// Address to serve on.
    pub address: std::net::Ipv4Addr,
    /// Port to serve on.
    pub port: u16,
}
