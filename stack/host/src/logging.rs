//! Where log lines go: stderr, or the file of `REMORA_LOG_FILE`. One write(2) per line, by raw system call, formatted on
//! the stack without allocation or lock and without touching errno, so that it works below a lock, in a signal
//! handler, in a forked child and in the keeper. What is logged at which level is the caller's affair.
//!
//! Descriptors can be closed or taken over by the program behind our back. So the file behind the number is compared
//! before each line: a lost stderr is given up, a lost log file is opened again.

use crate::config::Config;
use crate::sys::call::{self, Errno, Fd, FileId};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::ffi::CStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

/// Longest line in bytes, newline included.
const LINE_MAX: usize = 1_024;
/// What stands at the end of a line that was cut.
const CUT: &[u8] = b"...";
/// Longest path that can be opened again (PATH_MAX).
const PATH_MAX: usize = 4_096;

/// The sink. All of it is plain atomics in private memory: it survives fork by copy and needs no lock.
struct Sink {
    /// The descriptor that lines go to; -1 while there is none.
    fd: AtomicI32,
    /// What file that must be.
    device: AtomicU64,
    inode: AtomicU64,
    /// Whether lines go to the file whose path is below, with time and process.
    to_file: AtomicBool,
    /// Absolute path of the log file, ending in zero.
    path: [AtomicU8; PATH_MAX],
}

static SINK: Sink = Sink {
    fd: AtomicI32::new(-1),
    device: AtomicU64::new(0),
    inode: AtomicU64::new(0),
    to_file: AtomicBool::new(false),
    path: [const { AtomicU8::new(0) }; PATH_MAX],
};

/// Installs the logger, or changes the one installed, and logs the configuration's notes.
///
/// # Errors
/// The log file cannot be opened. Lines go to stderr then.
pub fn install(config: &Config) -> Result<(), Errno> {
    let result = match &config.log_file {
        Some(path) => open_file(&path.value),
        None => {
            use_stderr();
            Ok(())
        }
    };
    if result.is_err() {
        use_stderr();
    }
    // The only other logger could be an earlier call's, which is the same.
    let _ = log::set_logger(&SINK);
    log::set_max_level(if SINK.fd.load(Ordering::Relaxed) < 0 { LevelFilter::Off } else { config.log.value });
    if let (Err(error), Some(path)) = (result, &config.log_file) {
        let path = path.value.display();
        log::warn!(target: "remora::config", "REMORA_LOG_FILE={path}: cannot be opened: {error}: the log goes to stderr");
    }
    for (level, text) in &config.notes {
        log::log!(target: "remora::config", *level, "{text}");
    }
    result
}

/// The log file's descriptor, which hooks of `close` and its kin leave alone and the keeper keeps. `None` when lines
/// go to stderr.
#[must_use]
pub fn private_fd() -> Option<Fd> {
    let fd = Fd(SINK.fd.load(Ordering::Relaxed));
    (fd.is_some() && SINK.to_file.load(Ordering::Relaxed)).then_some(fd)
}

/// Stops logging in this process, for those who close all descriptors and have nothing more to say.
pub fn silence() {
    log::set_max_level(LevelFilter::Off);
}

/// Writes a line that was asked for, whatever is logged otherwise.
pub fn say(text: fmt::Arguments<'_>) {
    let Some(fd) = SINK.target() else { return };
    let mut line = Line::new();
    if SINK.to_file.load(Ordering::Relaxed) {
        line.file_record(
            &Record::builder().level(Level::Info).target("remora").args(text).build(),
            call::wall_clock(),
            call::getpid(),
        );
    } else {
        // A line takes what fits and never fails.
        let _ = write!(line, "remora: {text}");
    }
    let _ = call::write(fd, line.finish());
}

fn use_stderr() {
    SINK.to_file.store(false, Ordering::Relaxed);
    let stderr = Fd(2);
    match call::file_id(stderr) {
        Ok(id) => SINK.remember(stderr, id),
        // Started with stderr closed: whatever gets the number later is not ours to write to.
        Err(_) => SINK.fd.store(-1, Ordering::Relaxed),
    }
}

fn open_file(path: &Path) -> Result<(), Errno> {
    // The program may change its directory, and the keeper does.
    let path = std::path::absolute(path).map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::ENOENT)))?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= PATH_MAX || bytes.contains(&0) {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    for (slot, byte) in SINK.path.iter().zip(bytes.iter().chain(&[0])) {
        slot.store(*byte, Ordering::Relaxed);
    }
    SINK.reopen()?;
    SINK.to_file.store(true, Ordering::Relaxed);
    Ok(())
}

impl Sink {
    fn remember(&self, fd: Fd, id: FileId) {
        self.device.store(id.device, Ordering::Relaxed);
        self.inode.store(id.inode, Ordering::Relaxed);
        self.fd.store(fd.raw(), Ordering::Release);
    }

    /// Whether the number still names the file that it named when it was taken.
    fn is_ours(&self, fd: Fd) -> bool {
        let expected =
            FileId { device: self.device.load(Ordering::Relaxed), inode: self.inode.load(Ordering::Relaxed) };
        fd.is_some() && call::file_id(fd) == Ok(expected)
    }

    /// Opens the log file by the remembered path.
    fn reopen(&self) -> Result<Fd, Errno> {
        let mut bytes = [0u8; PATH_MAX];
        for (byte, slot) in bytes.iter_mut().zip(&self.path) {
            *byte = slot.load(Ordering::Relaxed);
        }
        let path = CStr::from_bytes_until_nul(&bytes).map_err(|_| Errno(libc::ENOENT))?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC | libc::O_NOCTTY;
        // O_NONBLOCK only for the opening: a FIFO without a reader must not hang the program.
        let low = call::open(path, flags | libc::O_NONBLOCK, 0o644)?;
        let fd = call::raise_high(low, call::private_floor())?;
        let id = call::file_id(fd)?;
        self.remember(fd, id);
        Ok(fd)
    }

    /// The descriptor to write to, if there is one that is certainly ours.
    fn target(&self) -> Option<Fd> {
        let fd = Fd(self.fd.load(Ordering::Acquire));
        if self.is_ours(fd) {
            return Some(fd);
        }
        if self.to_file.load(Ordering::Relaxed) { self.reopen().ok() } else { None }
    }
}

/// Whether a file may grow by so much.
fn has_room(fd: Fd, more: u64) -> bool {
    match call::resource_limit(libc::RLIMIT_FSIZE as i32) {
        Ok(limit) if limit.soft != u64::MAX => {
            call::status(fd).is_ok_and(|status| (status.st_size as u64).saturating_add(more) <= limit.soft)
        }
        _ => true,
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(fd) = self.target() else { return };
        let mut line = Line::new();
        if self.to_file.load(Ordering::Relaxed) {
            line.file_record(record, call::wall_clock(), call::getpid());
        } else {
            line.stderr_record(record);
        }
        // A full or broken sink loses the line: a log must never be the program's trouble. A file at the limit that the
        // program has set (sshd's child: 0) would even send it SIGXFSZ.
        if self.to_file.load(Ordering::Relaxed) && !has_room(fd, LINE_MAX as u64) {
            return;
        }
        let _ = call::write(fd, line.finish());
    }

    fn flush(&self) {}
}

/// A line in the making: the text that fits, and whether more was offered.
struct Line {
    bytes: [u8; LINE_MAX],
    length: usize,
    cut: bool,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; LINE_MAX], length: 0, cut: false }
    }

    /// `SECONDS.NANOSECONDS pid LEVEL target text`.
    fn file_record(&mut self, record: &Record<'_>, time: std::time::Duration, pid: i32) {
        let (seconds, nanoseconds) = (time.as_secs(), time.subsec_nanos());
        // A line takes what fits and never fails.
        let _ =
            write!(self, "{seconds}.{nanoseconds:09} {pid} {} {} {}", record.level(), record.target(), record.args());
    }

    /// `remora: LEVEL: text`.
    fn stderr_record(&mut self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let _ = write!(self, "remora: {level}: {}", record.args());
    }

    /// The whole line with its newline.
    fn finish(&mut self) -> &[u8] {
        if self.cut {
            for byte in CUT {
                self.bytes[self.length] = *byte;
                self.length += 1;
            }
        }
        self.bytes[self.length] = b'\n';
        &self.bytes[..=self.length]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        /// Room kept for what `finish` appends, so that it cannot run over.
        const LIMIT: usize = LINE_MAX - CUT.len() - 1;
        for letter in text.chars() {
            let mut encoded = [0; 4];
            // One record is one line, and what a peer sent must not steer a terminal.
            let letter = if letter.is_control() { ' ' } else { letter };
            let encoded = letter.encode_utf8(&mut encoded).as_bytes();
            match self.bytes.get_mut(self.length..LIMIT).and_then(|room| room.get_mut(..encoded.len())) {
                Some(room) if !self.cut => {
                    room.copy_from_slice(encoded);
                    self.length += encoded.len();
                }
                _ => {
                    self.cut = true;
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, Value};
    use std::time::Duration;

    fn formatted(level: Level, text: fmt::Arguments<'_>, to_file: bool) -> String {
        let mut line = Line::new();
        let record = Record::builder().level(level).target("remora::tcp").args(text).build();
        if to_file {
            line.file_record(&record, Duration::new(12, 34), 56);
        } else {
            line.stderr_record(&record);
        }
        String::from_utf8(line.finish().to_vec()).unwrap()
    }

    #[test]
    fn lines_have_their_two_forms() {
        assert_eq!(formatted(Level::Warn, format_args!("a {}", 1), false), "remora: warning: a 1\n");
        assert_eq!(formatted(Level::Trace, format_args!("b"), true), "12.000000034 56 TRACE remora::tcp b\n");
    }

    #[test]
    fn long_lines_are_cut_at_a_letter_with_dots() {
        for letter in ["x", "ä", "€", "😀"] {
            let text = formatted(Level::Warn, format_args!("{}", letter.repeat(LINE_MAX)), false);
            assert!(text.len() <= LINE_MAX && text.len() > LINE_MAX - 8, "{}", text.len());
            assert!(text.ends_with(&format!("{letter}...\n")));
        }
        let room = LINE_MAX - CUT.len() - 1 - "remora: warning: ".len();
        assert!(!formatted(Level::Warn, format_args!("{}", "x".repeat(room)), false).contains("..."));
    }

    #[test]
    fn control_characters_cannot_break_the_line() {
        assert_eq!(formatted(Level::Warn, format_args!("a\nb\x1b[2J"), false), "remora: warning: a b [2J\n");
    }

    /// One test for all that is process-wide: the sink is one.
    #[test]
    fn the_log_file_is_appended_to_and_a_reused_descriptor_never_written() {
        let path = std::env::temp_dir().join(format!("remora-log-{}.log", std::process::id()));
        std::fs::write(&path, "before\n").unwrap();
        let config = Config {
            log: Value::new(LevelFilter::Info, Source::Default),
            log_file: Some(Value::new(path.clone(), Source::Default)),
            notes: vec![(Level::Info, "a note".to_owned())],
            ..Config::default()
        };
        install(&config).unwrap();
        let fd = private_fd().unwrap();
        assert!(fd.raw() > 2 && call::fcntl(fd, libc::F_GETFD, 0) == Ok(libc::FD_CLOEXEC));
        log::info!(target: "remora::call", "one");
        log::debug!(target: "remora::call", "not at this level");

        // The program closes our number and gets it for a file of its own.
        let other = std::env::temp_dir().join(format!("remora-log-{}.other", std::process::id()));
        let stranger = std::fs::File::create(&other).unwrap();
        call::dup3(Fd(std::os::fd::AsRawFd::as_raw_fd(&stranger)), fd, 0).unwrap();
        log::warn!(target: "remora::call", "two");
        let written = std::fs::read_to_string(&other).unwrap();
        let _ = call::close(fd);

        let missing =
            Config { log_file: Some(Value::new("/nonexistent/dir/log".into(), Source::Default)), ..Config::default() };
        assert_eq!(install(&missing), Err(Errno(libc::ENOENT)));
        assert_eq!(private_fd(), None);
        silence();

        let log = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&other).unwrap();
        assert_eq!(written, "");
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 4, "{log}");
        assert_eq!(lines[0], "before");
        assert!(lines[1].ends_with(&format!(" {} INFO remora::config a note", std::process::id())));
        assert!(lines[2].ends_with("INFO remora::call one") && lines[3].ends_with("WARN remora::call two"));
    }
}
