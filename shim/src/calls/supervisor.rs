//! `remora run --static`: internet sockets for programs that no library can be loaded into. This process has the
//! library; a seccomp filter of the program hands the calls that make and name sockets over to it (seccomp_unotify(2)),
//! and they are carried out here. What the program gets is one end of an AF_UNIX pair; once a socket is connected the
//! keeper has the other end and moves the bytes (`runtime::handle`), and the program reads, writes, polls, duplicates
//! and closes as it pleases without anybody asked.
//!
//! Until then the other end is here. A stream's pair is full, so that a connect under way is not writable; a listener's
//! holds a byte while there is a connection to accept; a datagram socket without a peer gets its datagrams one by one, so
//! that their senders are known. `requests` has what each call comes to.

mod program;
mod requests;

use program::{Caller, Name};
use remora_host::runtime::{self, Expect, Runtime};
use remora_host::sys::{Errno, Fd, call};
use smallvec::SmallVec;

use crate::abi::{Outcome, User};
use crate::fdtable::{self, Handle};

/// What makes a stream's pair full: more than the kernel's limit for one socket by default (wmem_default, of which a
/// fourth may be used) in one piece, and the byte that is to stay (`Runtime::make_handle_of`).
const FILLING: usize = 60_000;

/// When to look whether a datagram has been read by a call that nobody is told of.
const READ_LOOK: i32 = 5;

/// Ended attempts that are remembered for SO_ERROR.
const REMEMBERED: usize = 64;

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Made, perhaps bound; of a datagram socket: without a peer.
    Fresh,
    Connecting,
    /// The keeper has the pair's other end.
    Connected,
    Listening,
    /// A connect in vain that the program has not waited for; what SO_ERROR is to say.
    Failed(Errno),
    /// The same, and the program has been told.
    Ended,
}

/// A socket of the program.
#[derive(Debug)]
struct Socket {
    /// Inode of the program's end: under whichever numbers it stands, in whichever of its processes.
    inode: u64,
    /// Our number for the socket of the stack; -1 once it is given up.
    number: i32,
    /// The pair's other end.
    far: Fd,
    stage: Stage,
    stream: bool,
    /// A listener's byte is in the pair.
    told: bool,
    /// Who has sent the datagram in the pair.
    sender: Option<Name>,
}

impl Socket {
    fn new(near: Fd, number: i32, far: Fd, stage: Stage, stream: bool) -> Self {
        let inode = call::file_id(near).map_or(0, |file| file.inode);
        Self { inode, number, far, stage, stream, told: false, sender: None }
    }
}

/// A call whose answer has to wait.
#[derive(Debug)]
struct Waiting {
    caller: Caller,
    inode: u64,
    what: Awaited,
}

#[derive(Clone, Copy, Debug)]
enum Awaited {
    Connect,
    Accept {
        flags: i32,
    },
    /// Input in the program's end, of which this is a copy.
    Receive {
        near: Fd,
    },
}

/// A connection taken from a listener for a call that a signal has interrupted: the next one's.
#[derive(Clone, Copy, Debug)]
struct Returned {
    listener: u64,
    /// What the program is to have.
    near: Fd,
    /// Our number for the socket of the stack; for one of the kernel's, the same as `near`.
    number: i32,
}

/// All sockets of the program and its children.
#[derive(Debug)]
struct Supervisor {
    notifier: Fd,
    runtime: &'static Runtime,
    sockets: Vec<Socket>,
    waiting: Vec<Waiting>,
    returned: Vec<Returned>,
    /// Room for one datagram, and for what fills a pair.
    piece: Vec<u8>,
}

/// Serves the program whose notifier comes over `link`, until its last process has ended. Says over the link that it is
/// ready, or closes it.
pub(crate) fn serve(link: Fd) {
    let Some(settings) = crate::config::active() else { return };
    let Ok(runtime) = runtime::start(settings.config()) else { return };
    if runtime.bring_up(true).is_err() {
        return;
    }
    let mut passed = [Fd::NONE; call::MAX_PASSED];
    let Ok((1, 1)) = call::receive_descriptors(link, &mut [0], &mut passed, 0) else { return };
    let [notifier, ..] = passed;
    let _ = call::send(link, &[1], libc::MSG_NOSIGNAL);
    let _ = call::close(link);
    let mut supervisor = Supervisor {
        notifier,
        runtime,
        sockets: Vec::new(),
        waiting: Vec::new(),
        returned: Vec::new(),
        piece: vec![0; 1 << 16],
    };
    while supervisor.turn() {}
}

/// What an entry of the poll set is about.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Notifier,
    /// The pair's other end of the socket at this place.
    Far(usize),
    /// The socket of the stack at this place.
    Stack(usize),
    Near(u64),
}

/// A pair for the program; a stream's is full.
fn make_pair(stream: bool, nonblocking: bool) -> Result<(Fd, Fd), Errno> {
    let kind = if stream { libc::SOCK_STREAM } else { libc::SOCK_SEQPACKET };
    let (near, far) = call::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC)?;
    if stream {
        let _ = call::send(near, &[0; FILLING], libc::MSG_DONTWAIT);
        let _ = call::send(near, &[0], libc::MSG_DONTWAIT);
    }
    let _ = set_nonblocking(near, nonblocking);
    let _ = set_nonblocking(far, true);
    Ok((near, far))
}

fn set_nonblocking(fd: Fd, nonblocking: bool) -> Result<(), Errno> {
    let flags = call::fcntl(fd, libc::F_GETFL, 0)?;
    let wanted = if nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    call::fcntl(fd, libc::F_SETFL, wanted).map(drop)
}

impl Supervisor {
    /// Waits for something and does it; `false` at the end.
    fn turn(&mut self) -> bool {
        let (mut set, causes, unread) = self.poll_set();
        let timeout = if unread { READ_LOOK } else { -1 };
        let count = set.len();
        let outcome = User::lend_all(&mut set, |set| super::poll(set, count, timeout));
        if matches!(outcome, Outcome::PassThrough) {
            let span = (timeout >= 0).then(|| std::time::Duration::from_millis(timeout.unsigned_abs().into()));
            let _ = call::ppoll(&mut set, span, None);
        }
        // Sockets may go while these are seen to: by name, not by place.
        let mut happened: SmallVec<[(Cause, u64, i16); 8]> = SmallVec::new();
        for (entry, cause) in set.iter().zip(&causes).filter(|(entry, _)| entry.revents != 0) {
            let inode = match *cause {
                Cause::Far(place) | Cause::Stack(place) => self.sockets.get(place).map_or(0, |socket| socket.inode),
                Cause::Near(inode) => inode,
                Cause::Notifier => 0,
            };
            happened.push((*cause, inode, entry.revents));
        }
        let mut goes_on = true;
        for (cause, inode, events) in happened {
            match cause {
                Cause::Notifier if events & libc::POLLIN != 0 => self.hear(),
                Cause::Notifier => goes_on = false,
                Cause::Far(_) if events & libc::POLLHUP != 0 => self.end(inode),
                Cause::Far(_) => {}
                Cause::Stack(_) => self.stack_is_ready(inode, events),
                Cause::Near(_) => self.resume(inode),
            }
        }
        if unread {
            self.note_read();
        }
        goes_on
    }

    fn poll_set(&self) -> (Vec<libc::pollfd>, Vec<Cause>, bool) {
        let mut set = vec![libc::pollfd { fd: self.notifier.raw(), events: libc::POLLIN, revents: 0 }];
        let mut causes = vec![Cause::Notifier];
        let mut unread = false;
        for (place, socket) in self.sockets.iter().enumerate() {
            if socket.far.is_some() {
                set.push(libc::pollfd { fd: socket.far.raw(), events: 0, revents: 0 });
                causes.push(Cause::Far(place));
            }
            let events = match socket.stage {
                Stage::Connecting => libc::POLLOUT,
                Stage::Listening if !socket.told || self.is_awaited(socket.inode) => libc::POLLIN,
                Stage::Fresh if !socket.stream && socket.sender.is_none() => libc::POLLIN,
                _ => continue,
            };
            set.push(libc::pollfd { fd: socket.number, events, revents: 0 });
            causes.push(Cause::Stack(place));
        }
        for waiting in &self.waiting {
            if let Awaited::Receive { near } = &waiting.what {
                set.push(libc::pollfd { fd: near.raw(), events: libc::POLLIN, revents: 0 });
                causes.push(Cause::Near(waiting.inode));
            }
        }
        unread |= self.sockets.iter().any(|socket| socket.sender.is_some());
        (set, causes, unread)
    }

    fn is_awaited(&self, inode: u64) -> bool {
        self.waiting.iter().any(|waiting| waiting.inode == inode)
    }

    fn socket(&mut self, inode: u64) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.inode == inode)
    }

    /// Something happened to a socket of the stack.
    fn stack_is_ready(&mut self, inode: u64, events: i16) {
        let Some(socket) = self.socket(inode) else { return };
        let (stage, stream) = (socket.stage, socket.stream);
        match stage {
            Stage::Connecting => self.connect_has_ended(inode, events & (libc::POLLERR | libc::POLLHUP) != 0),
            Stage::Listening if self.is_awaited(inode) => self.resume(inode),
            Stage::Listening => self.tell_listener(inode),
            Stage::Fresh if !stream => self.bring_datagram(inode),
            _ => {}
        }
    }

    /// There is a connection to accept.
    fn tell_listener(&mut self, inode: u64) {
        if let Some(socket) = self.socket(inode).filter(|socket| !socket.told) {
            socket.told = call::send(socket.far, &[0], libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT).is_ok();
        }
    }

    /// One datagram goes into the program's pair.
    fn bring_datagram(&mut self, inode: u64) {
        let mut piece = std::mem::take(&mut self.piece);
        let mut name = [0u8; program::NAME_ROOM];
        let mut length = [name.len() as u32];
        if let Some(socket) = self.socket(inode) {
            let (number, room) = (socket.number, piece.len());
            let received = User::lend_all(&mut piece, |bytes| {
                User::lend_all(&mut name, |name| {
                    User::lend_all(&mut length, |length| {
                        super::recvfrom(number, bytes, room, libc::MSG_DONTWAIT, name.cast(), length)
                    })
                })
            });
            if let Outcome::Ours(Ok(count)) = received {
                let bytes = piece.get(..count as usize).unwrap_or(&[]);
                if call::send(socket.far, bytes, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT).is_ok() {
                    let [length] = length;
                    socket.sender = Some(name.iter().take(length as usize).copied().collect());
                }
            }
        }
        self.piece = piece;
    }

    /// Datagrams that the program has read without anybody told make way for the next.
    fn note_read(&mut self) {
        for socket in &mut self.sockets {
            if socket.sender.is_some() && call::queued_output(socket.far) == Ok(0) {
                socket.sender = None;
            }
        }
    }

    /// The last copy of the program's end is closed.
    fn end(&mut self, inode: u64) {
        if let Some(place) = self.sockets.iter().position(|socket| socket.inode == inode) {
            let socket = self.sockets.swap_remove(place);
            self.give_up(&socket);
        }
        self.returned.retain(|one| {
            let other = one.listener != inode;
            if !other {
                let _ = call::close(one.near);
            }
            other
        });
    }

    fn give_up(&self, socket: &Socket) {
        if socket.far.is_some() {
            let _ = call::close(socket.far);
        }
        if socket.number < 0 {
            return;
        }
        if socket.stage == Stage::Connected {
            // What it held is given up already.
            let _ = fdtable::remove(socket.number);
            let _ = call::close(Fd(socket.number));
        } else if matches!(super::close(socket.number), Outcome::PassThrough) {
            let _ = call::close(Fd(socket.number));
        }
    }

    /// Forgets connections that have ended, and failures of old.
    fn sweep(&mut self) {
        let mut failed = 0;
        for place in (0..self.sockets.len()).rev() {
            let Some(socket) = self.sockets.get(place) else { continue };
            let gone = match socket.stage {
                Stage::Connected => fdtable::socket(socket.number).is_none_or(|handle| !self.runtime.exists(handle.id)),
                Stage::Failed(_) | Stage::Ended => {
                    failed += 1;
                    failed > REMEMBERED
                }
                _ => false,
            };
            if gone {
                let socket = self.sockets.swap_remove(place);
                self.give_up(&socket);
            }
        }
    }

    /// A connect that took time has ended.
    fn connect_has_ended(&mut self, inode: u64, failed: bool) {
        let mut waiting: SmallVec<[u64; 2]> = SmallVec::new();
        self.waiting.retain(|other| {
            let same = other.inode == inode;
            if same {
                waiting.push(other.caller.id);
            }
            !same
        });
        let result = if failed { self.connect_has_failed(inode, waiting.is_empty()) } else { Ok(0) };
        if !failed {
            self.establish(inode);
        }
        for id in waiting {
            let _ = call::answer_call(self.notifier, id, result);
        }
    }

    /// `alone`: nobody waits for it.
    fn connect_has_failed(&mut self, inode: u64, alone: bool) -> Result<i64, Errno> {
        let runtime = self.runtime;
        let lost = Err(Errno(libc::ECONNABORTED));
        let Some(socket) = self.socket(inode) else { return lost };
        let number = socket.number;
        if alone {
            // With something unread in it, a closed end shows a reset to the other one: IN, OUT, ERR and HUP.
            socket.stage = Stage::Failed(requests::error_of(number));
            let far = std::mem::replace(&mut socket.far, Fd::NONE);
            socket.number = -1;
            let _ = call::close(far);
            let _ = super::close(number);
            return lost;
        }
        socket.stage = Stage::Fresh;
        let id = fdtable::socket(number).map(|handle| handle.id);
        let ended = id.and_then(|id| runtime.with_socket(id, |stack, socket, now| stack.finish_connect(now, socket)));
        match ended {
            Some(Some(Err(error))) => Err(crate::errno::connect(error)),
            _ => lost,
        }
    }

    /// The keeper serves the program's end from now on.
    fn establish(&mut self, inode: u64) {
        let runtime = self.runtime;
        let mut piece = std::mem::take(&mut self.piece);
        if let Some(socket) = self.socket(inode)
            && let Some(Handle { id, .. }) = fdtable::socket(socket.number)
            && socket.far.is_some()
        {
            let mut left = if socket.stream { FILLING } else { 0 };
            while left > 0
                && let Some(room) = piece.get_mut(..left)
                && let Ok(count @ 1..) = call::receive(socket.far, room, libc::MSG_DONTWAIT)
            {
                left -= count;
            }
            match runtime.make_handle_of(id, socket.far) {
                Ok(handle) => {
                    runtime.start_handle(handle, Expect::Stranger, true);
                    runtime.release(id);
                    socket.far = Fd::NONE;
                    socket.stage = Stage::Connected;
                }
                Err(error) => {
                    log::warn!(target: "remora::shim", "a connection of a static program is lost: {error:?}");
                    self.end(inode);
                }
            }
        }
        self.piece = piece;
    }
}
