//! Questions between families: whoever finds a name in the way asks its keeper, which first gives up what nobody needs any
//! more (a socket closed, a process killed a moment ago), makes known what its family has on the port that is asked about,
//! and chooses that port no more. Then it answers, and the asker looks at the names again.

use super::names::{Claim, PortKey, Probe, datagram_socket};
use crate::sys::{Errno, Fd, call};
use std::io::IoSlice;
use std::time::Duration;

/// How long an answer is waited for: what a keeper needs on a busy machine. Without a keeper none comes.
const PATIENCE: Duration = Duration::from_secs(1);

/// When to look whether the name has gone: nobody tells of that.
const LOOK: Duration = Duration::from_millis(1);

/// Questions answered at a time.
const AT_A_TIME: usize = 16;

/// Protocol, unused, port.
const QUESTION: usize = 4;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name stands for something.
    Stands,
    /// It has been given up.
    Gone,
    /// Nobody answers.
    None,
}

/// Asks whoever has the name about a port.
pub(super) fn ask(name: &str, key: PortKey) -> Answer {
    let Ok(fd) = datagram_socket() else { return Answer::None };
    let answer = ask_by(fd, name, key)
        .unwrap_or_else(|errno| if errno == Errno(libc::ECONNREFUSED) { Answer::Gone } else { Answer::None });
    let _ = call::close(fd);
    answer
}

fn ask_by(fd: Fd, name: &str, key: PortKey) -> Result<Answer, Errno> {
    // A bare family: the kernel chooses a name, to be answered at.
    call::bind(fd, &(libc::AF_UNIX as u16).to_ne_bytes())?;
    let (address, length) = call::unix_address(name)?;
    call::connect(fd, address.get(..length).unwrap_or(&[]))?;
    let [high, low] = key.port.to_be_bytes();
    call::send(fd, &[key.protocol, 0, high, low], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)?;
    let probe = Probe::new();
    let end = call::now() + PATIENCE;
    while call::now() < end {
        let mut set = [libc::pollfd { fd: fd.raw(), events: libc::POLLIN, revents: 0 }];
        if call::ppoll(&mut set, Some(LOOK), None).is_ok_and(|ready| ready > 0) {
            return Ok(Answer::Stands);
        }
        if !probe.is_taken(name) {
            return Ok(Answer::Gone);
        }
    }
    Ok(Answer::None)
}

/// What the keeper hears on the names that it has.
#[derive(Debug)]
pub(in crate::runtime) struct Questions(Fd);

/// One to be answered.
#[derive(Debug)]
pub(in crate::runtime) struct Question {
    name: Fd,
    from: Vec<u8>,
    /// The port that it is about.
    pub(in crate::runtime) key: PortKey,
}

impl Questions {
    /// Where that is not possible nobody is answered, and names are believed as they are.
    pub(in crate::runtime) fn new() -> Self {
        Self(call::epoll_create(libc::EPOLL_CLOEXEC).unwrap_or(Fd::NONE))
    }

    /// To be watched for input.
    pub(in crate::runtime) const fn fd(&self) -> Fd {
        self.0
    }

    /// Listens on the name of a claim, if it is one that can be asked about; closing it ends that.
    pub(in crate::runtime) fn hear(&self, claim: Claim, name: Fd) {
        if matches!(claim, Claim::Answerer | Claim::Term(..)) {
            return;
        }
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: name.raw() as u64 };
        let _ = call::epoll_ctl(self.0, libc::EPOLL_CTL_ADD, name, Some(&mut event));
    }

    /// The questions that have come.
    pub(in crate::runtime) fn take(&self) -> Vec<Question> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_A_TIME];
        let count = call::epoll_pwait(self.0, &mut events, 0, None).unwrap_or(0);
        let names = events.iter().take(count).map(|event| Fd(event.u64 as i32));
        names.filter_map(Question::take).collect()
    }
}

impl Question {
    fn take(name: Fd) -> Option<Self> {
        let (mut sender, mut bytes) = ([0u8; 110], Vec::new());
        let received = call::receive_from_into(name, &mut sender, &mut bytes, QUESTION, libc::MSG_DONTWAIT).ok()?;
        let [protocol, _, high, low] = *bytes.first_chunk()?;
        let key = PortKey { protocol, port: u16::from_be_bytes([high, low]) };
        Some(Self { name, from: sender.get(..received.name)?.to_vec(), key })
    }

    /// Says that all has been done.
    pub(in crate::runtime) fn answer(&self) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let _ = call::send_message(self.name, &[IoSlice::new(&[1])], Some(&self.from), &[], flags);
    }
}
