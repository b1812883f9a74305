//! What each call that a static program's filter hands over comes to: its arguments are copied from the program's
//! memory (`program`), the call is made on our socket, and what it gives is copied back.

use remora_host::runtime::Expect;
use remora_host::sys::{Errno, Fd, call};

use super::program::{self, Caller, Name};
use super::{Awaited, Returned, Socket, Stage, Supervisor, Waiting, make_pair, set_nonblocking};
use crate::abi::{Outcome, User};
use crate::calls;
use crate::fdtable::{self, Handle};

/// Longest option that is copied.
const OPTION_ROOM: usize = 4096;

/// How a call is answered.
#[derive(Debug)]
enum Answer {
    Result(Result<i64, Errno>),
    /// The kernel carries it out.
    Kernel,
    /// It has been answered, or will be.
    Later,
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Self::Result(Err(errno))
    }
}

fn answer_of<T: Into<i64>>(outcome: Outcome<T>) -> Answer {
    match outcome {
        Outcome::Ours(result) => Answer::Result(result.map(Into::into)),
        Outcome::PassThrough => Answer::Kernel,
    }
}

/// The error that waits in a socket, which is taken.
pub(super) fn error_of(number: i32) -> Errno {
    let (mut value, mut length) = ([0u32], [4u32]);
    let outcome = User::lend_all(&mut value, |value| {
        User::lend_all(&mut length, |length| {
            calls::getsockopt(number, libc::SOL_SOCKET, libc::SO_ERROR, value.cast(), length)
        })
    });
    match (outcome, value) {
        (Outcome::Ours(Ok(_)), [errno]) if errno != 0 => Errno(errno as i32),
        _ => Errno(libc::ECONNABORTED),
    }
}

impl Supervisor {
    /// Answers the next call, unless it has to wait.
    pub(super) fn hear(&mut self) {
        let Ok(call::Notification { id, thread, number, words }) = call::notification(self.notifier) else { return };
        let answer = match number {
            libc::SYS_socket => self.open(id, words),
            _ => self.on_descriptor(&Caller { id, thread, words }, number),
        };
        self.give_answer(id, answer);
    }

    fn give_answer(&self, id: u64, answer: Answer) {
        // Nobody may be waiting any more: then a signal has come first.
        let _ = match answer {
            Answer::Result(result) => call::answer_call(self.notifier, id, result),
            Answer::Kernel => call::let_call_pass(self.notifier, id),
            Answer::Later => Ok(()),
        };
    }

    /// What a call has waited for is there.
    pub(super) fn resume(&mut self, inode: u64) {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.inode == inode) else { return };
        let Waiting { caller, what, .. } = self.waiting.swap_remove(place);
        if let Awaited::Receive { near } = what {
            let _ = call::close(near);
        }
        if !call::is_awaited(self.notifier, caller.id) {
            return;
        }
        let answer = match what {
            _ if self.socket(inode).is_none() => Answer::Kernel,
            Awaited::Accept { flags } => self.accept(&caller, inode, flags),
            Awaited::Receive { .. } => self.receive(&caller, inode),
            Awaited::Connect => return,
        };
        self.give_answer(caller.id, answer);
    }

    fn wait(&mut self, caller: &Caller, inode: u64, what: Awaited) -> Answer {
        // A signal ends a wait without a word, and a call that is restarted comes as another.
        let notifier = self.notifier;
        self.waiting.retain(|waiting| {
            let awaited = call::is_awaited(notifier, waiting.caller.id);
            if let Awaited::Receive { near } = waiting.what
                && !awaited
            {
                let _ = call::close(near);
            }
            awaited
        });
        self.waiting.push(Waiting { caller: *caller, inode, what });
        Answer::Later
    }

    fn on_descriptor(&mut self, caller: &Caller, number: i64) -> Answer {
        let [_, b, ..] = caller.words;
        let inode = caller.inode();
        let Some(socket) = self.sockets.iter_mut().find(|socket| Some(socket.inode) == inode) else {
            return Answer::Kernel;
        };
        let (inode, ours) = (socket.inode, socket.number);
        match number {
            libc::SYS_connect => self.connect(caller, inode),
            libc::SYS_accept => self.accept(caller, inode, 0),
            libc::SYS_accept4 => {
                let [.., flags, _, _] = caller.words;
                self.accept(caller, inode, flags as i32)
            }
            libc::SYS_recvfrom => self.receive(caller, inode),
            libc::SYS_sendto => self.send(caller, inode),
            libc::SYS_bind => self.bind(caller, inode, ours),
            libc::SYS_listen => {
                let answer = answer_of(calls::listen(ours, b as i32));
                match answer {
                    Answer::Kernel => self.becomes_kernels(caller, inode),
                    Answer::Result(Ok(_)) => socket_at(&mut self.sockets, inode).stage = Stage::Listening,
                    _ => {}
                }
                answer
            }
            libc::SYS_getsockname => name_of(caller, |name, length| calls::getsockname(ours, name, length)),
            libc::SYS_getpeername => name_of(caller, |name, length| calls::getpeername(ours, name, length)),
            libc::SYS_getsockopt => option(caller, socket),
            libc::SYS_setsockopt => set_option(caller, ours),
            _ => Answer::Kernel,
        }
    }

    /// socket(): the program gets one end of a pair.
    fn open(&mut self, id: u64, [family, kind, protocol, ..]: [u64; 6]) -> Answer {
        const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        self.sweep();
        let kind = kind as i32;
        let number = match calls::socket(family as i32, kind | FLAGS, protocol as i32) {
            Outcome::PassThrough => return Answer::Kernel,
            Outcome::Ours(Err(errno)) => return errno.into(),
            Outcome::Ours(Ok(number)) => number,
        };
        let stream = fdtable::socket(number).is_some_and(Handle::is_stream);
        let (near, far) = match make_pair(stream, kind & libc::SOCK_NONBLOCK != 0) {
            Ok(pair) => pair,
            Err(errno) => {
                let _ = calls::close(number);
                return errno.into();
            }
        };
        let socket = Socket::new(near, number, far, Stage::Fresh, stream);
        let given = call::answer_with_descriptor(self.notifier, id, near, kind & libc::SOCK_CLOEXEC != 0);
        let _ = call::close(near);
        match given {
            Ok(()) => {
                self.sockets.push(socket);
                Answer::Later
            }
            Err(errno) => {
                self.give_up(&socket);
                errno.into()
            }
        }
    }

    fn bind(&mut self, caller: &Caller, inode: u64, ours: i32) -> Answer {
        let [_, address, length, ..] = caller.words;
        let mut name = match caller.name(address, length) {
            Ok(name) => name,
            Err(errno) => return errno.into(),
        };
        let answer = answer_of(User::lend_all(&mut name, |name| calls::bind(ours, name.cast(), length as u32)));
        if fdtable::socket(ours).is_none() {
            self.becomes_kernels(caller, inode);
        }
        answer
    }

    /// The socket is the kernel's after all (loopback, a rule): it stands under the program's number from now on.
    fn becomes_kernels(&mut self, caller: &Caller, inode: u64) {
        let flags = caller.flags();
        let Some(place) = self.sockets.iter().position(|socket| socket.inode == inode) else { return };
        let mut socket = self.sockets.swap_remove(place);
        let kernels = Fd(std::mem::replace(&mut socket.number, -1));
        let _ = set_nonblocking(kernels, flags & libc::O_NONBLOCK != 0);
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        let _ = call::replace_descriptor(self.notifier, caller.id, kernels, caller.descriptor(), close_on_exec);
        let _ = fdtable::remove(kernels.raw());
        let _ = call::close(kernels);
        self.give_up(&socket);
    }

    fn connect(&mut self, caller: &Caller, inode: u64) -> Answer {
        let [_, address, length, ..] = caller.words;
        let waits = caller.flags() & libc::O_NONBLOCK == 0;
        let mut name = match caller.name(address, length) {
            Ok(name) => name,
            Err(errno) => return errno.into(),
        };
        let socket = socket_at(&mut self.sockets, inode);
        match socket.stage {
            // `__inet_stream_connect`: the failure, if nobody has heard of it, and only then another attempt.
            Stage::Failed(errno) => {
                socket.stage = Stage::Ended;
                return if errno.0 == 0 { Errno(libc::ECONNABORTED) } else { errno }.into();
            }
            Stage::Ended => {
                if let Err(errno) = begin_anew(self.notifier, caller, socket, &name) {
                    return errno.into();
                }
            }
            _ => {}
        }
        if socket.stage == Stage::Connecting && waits {
            // A signal has interrupted it, and the kernel has it made again.
            return self.wait(caller, inode, Awaited::Connect);
        }
        let (number, inode) = (socket.number, socket.inode);
        let answer = answer_of(User::lend_all(&mut name, |name| calls::connect(number, name.cast(), length as u32)));
        match answer {
            Answer::Kernel => self.becomes_kernels(caller, inode),
            Answer::Result(Err(Errno(libc::EINPROGRESS))) => {
                socket.stage = Stage::Connecting;
                if waits {
                    return self.wait(caller, inode, Awaited::Connect);
                }
            }
            Answer::Result(Ok(_)) => self.establish(inode),
            _ => {}
        }
        answer
    }

    fn accept(&mut self, caller: &Caller, inode: u64, flags: i32) -> Answer {
        let [_, address, length, ..] = caller.words;
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Errno(libc::EINVAL).into();
        }
        let accepted = match self.returned.iter().position(|one| one.listener == inode) {
            Some(place) => self.returned.swap_remove(place),
            None => match self.take_connection(inode) {
                Ok(accepted) => accepted,
                Err(Errno(libc::EAGAIN)) => {
                    self.take_token(caller, inode);
                    if caller.flags() & libc::O_NONBLOCK != 0 {
                        return Errno(libc::EAGAIN).into();
                    }
                    return self.wait(caller, inode, Awaited::Accept { flags });
                }
                Err(errno) => return errno.into(),
            },
        };
        let named = match address {
            0 => Ok(()),
            _ => peer_name(accepted.number).and_then(|name| caller.store_name(address, length, &name)),
        };
        if let Err(errno) = named {
            let _ = call::close(accepted.near);
            return errno.into();
        }
        let _ = set_nonblocking(accepted.near, flags & libc::SOCK_NONBLOCK != 0);
        let close_on_exec = flags & libc::SOCK_CLOEXEC != 0;
        if call::answer_with_descriptor(self.notifier, caller.id, accepted.near, close_on_exec).is_err() {
            // A signal was first, and the call will come again.
            self.returned.push(accepted);
            self.tell_listener(inode);
            return Answer::Later;
        }
        if fdtable::socket(accepted.number).is_some() {
            self.sockets.push(Socket::new(accepted.near, accepted.number, Fd::NONE, Stage::Connected, true));
        }
        let _ = call::close(accepted.near);
        self.take_token(caller, inode);
        Answer::Later
    }

    /// Takes a connection for the program: from the stack, with a handle, or from the kernel's loopback.
    fn take_connection(&mut self, listener: u64) -> Result<Returned, Errno> {
        let number = socket_at(&mut self.sockets, listener).number;
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let number = match calls::accept4(number, User::null(), User::null(), flags) {
            Outcome::Ours(result) => result?,
            Outcome::PassThrough => return Err(Errno(libc::EINVAL)),
        };
        let Some(Handle { id, .. }) = fdtable::socket(number) else {
            let _ = fdtable::remove(number);
            return Ok(Returned { listener, near: Fd(number), number });
        };
        let Ok(made) = self.runtime.make_handle(id) else {
            let _ = calls::close(number);
            return Err(Errno(libc::ECONNABORTED));
        };
        self.runtime.start_handle(made.id, Expect::Stranger, true);
        self.runtime.release(id);
        Ok(Returned { listener, near: made.near, number })
    }

    /// With no connection left to accept, the byte that told of one goes.
    fn take_token(&mut self, caller: &Caller, inode: u64) {
        let again = self.returned.iter().any(|one| one.listener == inode);
        let socket = socket_at(&mut self.sockets, inode);
        if again || !socket.told {
            return;
        }
        let mut set = [libc::pollfd { fd: socket.number, events: libc::POLLIN, revents: 0 }];
        if matches!(User::lend_all(&mut set, |set| calls::poll(set, 1, 0)), Outcome::Ours(Ok(1))) {
            return;
        }
        socket.told = false;
        if let Ok(near) = caller.copy() {
            let _ = call::receive(near, &mut [0], libc::MSG_DONTWAIT);
            let _ = call::close(near);
        }
    }

    /// recvfrom() with a place for the sender: the data lies in the program's end, or will.
    fn receive(&mut self, caller: &Caller, inode: u64) -> Answer {
        let [_, buffer, size, flags, address, length] = caller.words;
        let near = match caller.copy() {
            Ok(near) => near,
            Err(errno) => return errno.into(),
        };
        let flags = flags as i32;
        let mut piece = std::mem::take(&mut self.piece);
        let size = piece.len().min(size as usize);
        let room = piece.get_mut(..size).unwrap_or_default();
        let received = call::receive(near, room, flags | libc::MSG_DONTWAIT);
        let answer = match received {
            Err(Errno(libc::EAGAIN)) if flags & libc::MSG_DONTWAIT == 0 && caller.flags() & libc::O_NONBLOCK == 0 => {
                self.piece = piece;
                return self.wait(caller, inode, Awaited::Receive { near });
            }
            Err(errno) => errno.into(),
            Ok(count) => {
                let socket = socket_at(&mut self.sockets, inode);
                // MSG_TRUNC gives the whole length.
                let bytes = room.get(..count).unwrap_or(room);
                let stored =
                    caller.store(buffer, bytes).and_then(|()| caller.store_name(address, length, &sender_of(socket)));
                if flags & libc::MSG_PEEK == 0 {
                    socket.sender = None;
                }
                Answer::Result(stored.map(|()| count as i64))
            }
        };
        self.piece = piece;
        let _ = call::close(near);
        answer
    }

    /// sendto() with a destination.
    fn send(&mut self, caller: &Caller, inode: u64) -> Answer {
        let [_, buffer, size, flags, address, length] = caller.words;
        let flags = flags as i32 | libc::MSG_NOSIGNAL;
        let socket = socket_at(&mut self.sockets, inode);
        let size = self.piece.len().min(size as usize);
        let bytes = self.piece.get_mut(..size).unwrap_or_default();
        let result = caller.fetch(buffer, bytes).and_then(|()| {
            if socket.stream && socket.stage == Stage::Connected {
                // A connected stream has no use for it (tcp_sendmsg_locked).
                let near = caller.copy()?;
                let sent = call::send(near, bytes, flags | libc::MSG_DONTWAIT);
                let _ = call::close(near);
                return sent.map(|count| count as i64);
            }
            let mut name = caller.name(address, length)?;
            let outcome = User::lend_all(bytes, |bytes| {
                User::lend_all(&mut name, |name| {
                    calls::sendto(socket.number, bytes, size, flags | libc::MSG_DONTWAIT, name.cast(), length as u32)
                })
            });
            match outcome {
                Outcome::Ours(result) => result.map(|count| count as i64),
                Outcome::PassThrough => Err(Errno(libc::ENETUNREACH)),
            }
        });
        Answer::Result(result)
    }
}

/// The socket of an inode that was looked up before.
fn socket_at(sockets: &mut [Socket], inode: u64) -> &mut Socket {
    sockets
        .iter_mut()
        .find(|socket| socket.inode == inode)
        .expect("looked up when the call came or is resumed, and nothing goes in between")
}

/// A new socket and a new pair in place of those of an attempt that failed.
fn begin_anew(notifier: Fd, caller: &Caller, socket: &mut Socket, name: &Name) -> Result<(), Errno> {
    let family = name.first_chunk().copied().map_or(libc::AF_INET, |bytes| i32::from(u16::from_ne_bytes(bytes)));
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let number = match calls::socket(family, kind, 0) {
        Outcome::Ours(result) => result?,
        Outcome::PassThrough => return Err(Errno(libc::ECONNABORTED)),
    };
    let flags = caller.flags();
    let (near, far) = make_pair(true, flags & libc::O_NONBLOCK != 0)?;
    let close_on_exec = flags & libc::O_CLOEXEC != 0;
    let replaced = call::replace_descriptor(notifier, caller.id, near, caller.descriptor(), close_on_exec);
    *socket = Socket::new(near, number, far, Stage::Fresh, true);
    let _ = call::close(near);
    replaced
}

/// Who sent what lies in the pair: nobody by name, of a stream.
fn sender_of(socket: &Socket) -> Name {
    match &socket.sender {
        _ if socket.stream => Name::new(),
        Some(sender) => sender.clone(),
        None => peer_name(socket.number).unwrap_or_default(),
    }
}

/// The peer's name, of a socket of ours or of the kernel's.
fn peer_name(number: i32) -> Result<Name, Errno> {
    let mut name = Name::from_elem(0, program::NAME_ROOM);
    let mut length = [program::NAME_ROOM as u32];
    let outcome = User::lend_all(&mut name, |name| {
        User::lend_all(&mut length, |length| calls::getpeername(number, name.cast(), length))
    });
    let [length] = length;
    let length = match outcome {
        Outcome::Ours(result) => result.map(|_| length as usize)?,
        Outcome::PassThrough => call::peer_name(Fd(number), &mut name)?,
    };
    name.truncate(length);
    Ok(name)
}

/// getsockname() and getpeername().
fn name_of(caller: &Caller, function: impl FnOnce(User<libc::sockaddr>, User<u32>) -> Outcome<i32>) -> Answer {
    let [_, address, length, ..] = caller.words;
    let mut name = Name::from_elem(0, program::NAME_ROOM);
    let mut whole = [program::NAME_ROOM as u32];
    let outcome = User::lend_all(&mut name, |name| User::lend_all(&mut whole, |length| function(name.cast(), length)));
    let [whole] = whole;
    name.truncate(whole as usize);
    match answer_of(outcome) {
        Answer::Result(Ok(value)) => Answer::Result(caller.store_name(address, length, &name).map(|()| value)),
        other => other,
    }
}

fn option(caller: &Caller, socket: &mut Socket) -> Answer {
    let [_, level, name, value, place, _] = caller.words;
    if let Stage::Failed(Errno(errno)) = socket.stage
        && (level as i32, name as i32) == (libc::SOL_SOCKET, libc::SO_ERROR)
    {
        socket.stage = Stage::Failed(Errno(0));
        let stored = caller.store(value, &errno.to_ne_bytes()).and_then(|()| caller.store(place, &4u32.to_ne_bytes()));
        return Answer::Result(stored.map(|()| 0));
    }
    let room = match caller.word(place) {
        Ok(room) => room.min(OPTION_ROOM as u32),
        Err(errno) => return errno.into(),
    };
    let mut bytes = vec![0u8; room as usize];
    if let Err(errno) = caller.fetch(value, &mut bytes) {
        return errno.into();
    }
    let mut length = [room];
    let outcome = User::lend_all(&mut bytes, |bytes| {
        User::lend_all(&mut length, |length| {
            calls::getsockopt(socket.number, level as i32, name as i32, bytes.cast(), length)
        })
    });
    let [length] = length;
    match answer_of(outcome) {
        Answer::Result(Ok(done)) => {
            let stored = caller.store(value, bytes.get(..length as usize).unwrap_or(&bytes));
            Answer::Result(stored.and_then(|()| caller.store(place, &length.to_ne_bytes())).map(|()| done))
        }
        other => other,
    }
}

fn set_option(caller: &Caller, number: i32) -> Answer {
    let [_, level, name, value, length, _] = caller.words;
    let mut bytes = vec![0u8; OPTION_ROOM.min(length as u32 as usize)];
    if let Err(errno) = caller.fetch(value, &mut bytes) {
        return errno.into();
    }
    let outcome = User::lend_all(&mut bytes, |bytes| {
        calls::setsockopt(number, level as i32, name as i32, bytes.cast(), length as u32)
    });
    // These govern the program's own reads and writes, which are on its end.
    let on_pair = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO, libc::SO_RCVLOWAT];
    if level as i32 == libc::SOL_SOCKET
        && on_pair.contains(&(name as i32))
        && let Ok(near) = caller.copy()
    {
        let _ = call::set_option(near, level as i32, name as i32, &bytes);
        let _ = call::close(near);
    }
    answer_of(outcome)
}
