//! Tests of the system call wrappers against the kernel.

use super::*;
use std::io::{IoSlice, IoSliceMut};

#[test]
fn errors_come_back_as_values_and_errno_is_left_alone() {
    // SAFETY: no argument.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: errno is this thread's own.
    unsafe { errno.write(4711) };
    assert_eq!(close(Fd(-1)), Err(Errno(libc::EBADF)));
    assert_eq!(read(Fd(-1), &mut [0; 4]), Err(Errno(libc::EBADF)));
    // SAFETY: errno is this thread's own.
    assert_eq!(unsafe { errno.read() }, 4711);
    assert_eq!(fcntl(Fd(0), libc::F_GETLK, 0), Err(Errno(libc::EINVAL)), "takes a pointer");
    assert_eq!(prctl(libc::PR_SET_NAME, 0), Err(Errno(libc::EINVAL)), "takes a pointer");
}

#[test]
fn raised_descriptor_is_high_and_closed_on_exec() {
    let low = eventfd(0, libc::EFD_NONBLOCK).unwrap();
    let id = file_id(low).unwrap();
    let floor = private_floor();
    let high = raise_high(low, floor).unwrap();
    assert!(high.raw() >= floor);
    assert_eq!(fcntl(high, libc::F_GETFD, 0), Ok(libc::FD_CLOEXEC));
    assert_eq!(file_id(high).unwrap(), id);
    assert!(!eventfd_drain(high));
    eventfd_ring(high);
    assert!(eventfd_drain(high));
    // No room above the limit: any number from 3 on will do.
    let other = duplicate_from(high, 3).unwrap();
    let kept = raise_high(other, i32::MAX).unwrap();
    assert_eq!(kept, other);
    close(kept).unwrap();
    close(high).unwrap();
}

#[test]
fn descriptors_travel_with_bytes() {
    let (one, other) = socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC).unwrap();
    let event = eventfd(7, libc::EFD_NONBLOCK).unwrap();
    assert_eq!(send_descriptors(one, b"abc", &[event, event], 0), Ok(3));
    let mut bytes = [0u8; 8];
    let mut passed = [Fd::NONE; MAX_PASSED];
    assert_eq!(receive_descriptors(other, &mut bytes, &mut passed, libc::MSG_DONTWAIT), Ok((3, 2)));
    assert_eq!(&bytes[..3], b"abc");
    let mut value = [0u8; 8];
    assert_eq!(read(passed[1], &mut value), Ok(8));
    assert_eq!(u64::from_ne_bytes(value), 7);
    assert_eq!(send_descriptors(one, b"", &[event; 9], 0), Err(Errno(libc::EINVAL)));
    assert_eq!(receive_descriptors(other, &mut bytes, &mut passed, libc::MSG_DONTWAIT), Err(Errno(libc::EAGAIN)));
    for fd in [one, other, event, passed[0], passed[1]] {
        close(fd).unwrap();
    }
}

#[test]
fn messages_gather_and_scatter_without_clearing() {
    let (one, other) = socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC).unwrap();
    send_message(one, &[IoSlice::new(b"head"), IoSlice::new(b"body")], None, &[], 0).unwrap();
    let mut prefix = [0u8; 4];
    let mut buffer = Vec::new();
    let got = receive_into(other, &mut prefix, &mut buffer, 16, &mut [], libc::MSG_DONTWAIT).unwrap();
    assert_eq!((got.length, &prefix, buffer.as_slice()), (8, b"head", b"body".as_slice()));
    send(one, b"too long for it", 0).unwrap();
    let got = receive_into(other, &mut prefix, &mut buffer, 2, &mut [], libc::MSG_TRUNC).unwrap();
    assert_eq!((got.length, buffer.as_slice()), (15, b"lo".as_slice()));
    assert_ne!(got.flags & libc::MSG_TRUNC, 0);
    let empty = receive_into(other, &mut prefix, &mut buffer, 2, &mut [], libc::MSG_DONTWAIT);
    assert_eq!((empty, buffer.len()), (Err(Errno(libc::EAGAIN)), 0));
    send(one, b"xy", 0).unwrap();
    let mut x = [0u8; 1];
    let mut y = [0u8; 1];
    let parts = &mut [IoSliceMut::new(&mut x), IoSliceMut::new(&mut y)];
    assert_eq!(receive_message(other, parts, &mut [], 0).unwrap().length, 2);
    assert_eq!((x, y), (*b"x", *b"y"));
    close(one).unwrap();
    close(other).unwrap();
}

#[test]
fn malformed_control_data_ends_the_walk() {
    assert_eq!(control_messages(&[]).count(), 0);
    assert_eq!(control_messages(&[1; 40]).count(), 0);
    let mut short = [0u8; 24];
    short[0] = 15;
    assert_eq!(control_messages(&short).count(), 0);
    short[0] = 20;
    assert_eq!(control_messages(&short).next().unwrap().data.len(), 4);
    assert_eq!(control_messages(&short).count(), 1);
}

#[test]
fn unix_addresses_of_both_kinds() {
    let (bytes, length) = unix_address("@name").unwrap();
    assert_eq!((&bytes[2..7], length), (b"\0name".as_slice(), 7));
    let (bytes, length) = unix_address("/p").unwrap();
    assert_eq!((&bytes[2..5], length), (b"/p\0".as_slice(), 5));
    assert_eq!(unix_address(""), Err(Errno(libc::EINVAL)));
    assert_eq!(unix_address(&"x".repeat(107)).unwrap().1, 110);
    assert_eq!(unix_address(&"x".repeat(108)), Err(Errno(libc::ENAMETOOLONG)));
}

#[test]
fn loopback_is_described() {
    let Ok(loopback) = interface("lo") else { panic!("every namespace has lo") };
    assert_eq!(loopback.hardware, libc::ARPHRD_LOOPBACK);
    assert!(loopback.mtu >= 1280);
    assert_eq!(interface("no-such-if0"), Err(Errno(libc::ENODEV)));
    assert_eq!(interface("a-name-that-is-far-too-long"), Err(Errno(libc::ENODEV)));
}

#[test]
fn own_memory_is_read_and_bad_memory_is_an_error() {
    let source = *b"readable";
    let mut target = [0u8; 8];
    assert_eq!(read_process_memory(getpid(), source.as_ptr() as usize, &mut target), Ok(8));
    assert_eq!(target, source);
    assert_eq!(read_process_memory(getpid(), 8, &mut target), Err(Errno(libc::EFAULT)));
}

//= test RFC 6528 §4 (MUST-2)
#[test]
fn time_randomness_and_signals() {
    let before = now();
    assert!(now() >= before);
    assert!(wall_clock().as_secs() > 1_700_000_000);
    let mut one = [0u8; 32];
    random_bytes(&mut one).unwrap();
    assert_ne!(one, [0; 32]);
    let old = signal_mask(libc::SIG_BLOCK, signal_bit(libc::SIGUSR2)).unwrap();
    assert_ne!(signal_mask(libc::SIG_SETMASK, old).unwrap() & signal_bit(libc::SIGUSR2), 0);
    assert_eq!(signal_bit(0), 0);
    assert_eq!(signal_bit(65), 0);
    let pidfd = pidfd_open(getpid(), 0).unwrap();
    let mut set = [libc::pollfd { fd: pidfd.raw(), events: libc::POLLIN, revents: 0 }];
    assert_eq!(ppoll(&mut set, Some(std::time::Duration::ZERO), None), Ok(0));
    close(pidfd).unwrap();
}

#[test]
fn batch_brings_what_waits_and_says_whether_that_was_all() {
    let (one, other) = socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC).unwrap();
    for text in [b"ab1".as_slice(), b"cd", b"ef4567890", b"g"] {
        send(one, text, 0).unwrap();
    }
    let mut batch = Batch::<2, 16>::new(3, 4);
    assert_eq!(batch.receive(other, 2, true, libc::MSG_DONTWAIT), Ok((2, false)));
    let seen = |batch: &mut Batch<2, 16>, index| {
        let slot = batch.slot(index).unwrap();
        (slot.prefix, slot.buffer.clone(), slot.received.length, slot.received.flags & libc::MSG_TRUNC != 0)
    };
    assert_eq!(seen(&mut batch, 0), (*b"ab", b"1".to_vec(), 3, false));
    assert_eq!(seen(&mut batch, 1), (*b"cd", Vec::new(), 2, false));
    assert_eq!(batch.receive(other, 9, false, libc::MSG_DONTWAIT), Ok((2, true)), "three slots, two messages");
    let slot = batch.slot(0).unwrap();
    assert_eq!((slot.buffer.as_slice(), slot.received.flags & libc::MSG_TRUNC), (b"ef45".as_slice(), libc::MSG_TRUNC));
    assert_eq!(batch.slot(1).unwrap().buffer, b"g");
    assert_eq!(batch.receive(other, 3, true, libc::MSG_DONTWAIT), Err(Errno(libc::EAGAIN)));
    close(one).unwrap();
    close(other).unwrap();
}
