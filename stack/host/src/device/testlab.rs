//! For tests: a device in memory, plain frames, and a network namespace with a veth pair that goes away by itself.

use super::{Device, DeviceError, DeviceStatistics, Scope, TransmitError};
use crate::sys::Fd;
use crate::sys::call;
use remora_stack::frame::{DeviceCapabilities, MAX_PAYLOAD_SLICES, Medium, Purpose, RxMeta, Transmit};
use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant};

/// A loop: what is sent comes back.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    frames: VecDeque<Vec<u8>>,
    pub(crate) meta: RxMeta,
}

impl Device for Memory {
    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { medium: Medium::Ethernet, mtu: 1500, gso_max: 65_535, checksum_tx: true }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        buffer.clear();
        let Some(frame) = self.frames.pop_front() else { return Ok(None) };
        buffer.extend_from_slice(&frame);
        Ok(Some(self.meta))
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        self.frames.push_back(frame.to_vec());
        Ok(())
    }

    fn fd(&self) -> Fd {
        Fd::NONE
    }

    fn statistics(&mut self) -> DeviceStatistics {
        DeviceStatistics::default()
    }

    fn set_scope(&mut self, _scope: &Scope) -> Result<(), DeviceError> {
        Ok(())
    }

    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError> {
        Ok(self.capabilities())
    }

    fn close(&mut self) {}
}

/// A frame in one piece.
pub(crate) fn plain(bytes: &[u8]) -> Transmit<'_> {
    Transmit { header: bytes, payload: [&[]; MAX_PAYLOAD_SLICES], checksum: None, gso_size: 0, purpose: Purpose::Own }
}

/// The next frame within two seconds.
pub(crate) fn receive_one(device: &mut dyn Device) -> (Vec<u8>, RxMeta) {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut buffer = Vec::new();
    loop {
        if let Some(meta) = device.receive(&mut buffer).unwrap() {
            return (buffer, meta);
        }
        assert!(Instant::now() < deadline, "no frame within 2 s");
        let mut set = [libc::pollfd { fd: device.fd().raw(), events: libc::POLLIN, revents: 0 }];
        let _ = call::ppoll(&mut set, Some(Duration::from_millis(100)), None);
    }
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) -> bool {
    let output = Command::new("ip").args(words.split_whitespace()).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs `body` in a thread of its own with a network namespace of its own, in which `va` and `vb` are the ends of a veth
/// that is up, with IPv6 off. The namespace ends with the thread. Says so and returns false where it cannot be made.
pub(crate) fn with_veth(test: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::spawn(move || {
        let alone = crate::sys::testing::leave_network_namespace();
        let made = alone
            && ip("link set lo up")
            && ip("link add va address 02:00:00:00:00:0a type veth peer name vb address 02:00:00:00:00:0b")
            && ip("link set va addrgenmode none up")
            && ip("link set vb addrgenmode none up");
        if made {
            body();
        }
        made
    });
    let made = thread.join().expect("the test in the namespace");
    if !made {
        let text = format!("skipped: {test} needs the right to make a network namespace and a veth (root)\n");
        let _ = call::write(Fd(2), text.as_bytes());
    }
    made
}
