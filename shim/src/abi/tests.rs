//! Tests of the edge: user memory, addresses, messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use remora_host::sys::Errno;
use remora_stack::io::{Fault, Sink, Source};
use remora_stack::socket::protocol::AddressFamily;

use super::address::{self, RawName};
use super::memory::{Buffer, User};
use super::message::{ControlWriter, controls, read_vectors};

/// A user pointer to memory of the test.
fn user<T>(value: *const T) -> User<T> {
    // SAFETY: memory of the test, or an address that is only to be refused.
    unsafe { User::new(value as usize) }
}

/// A mapping with the given protection that ends just before a hole.
struct Mapping(usize, usize);

impl Mapping {
    fn new(pages: usize, protection: i32) -> Self {
        let length = (pages + 1) * 4096;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) } as usize;
        assert_ne!(at, usize::MAX);
        // SAFETY: the last page of the new mapping.
        let hole = unsafe { libc::mprotect((at + pages * 4096) as *mut _, 4096, libc::PROT_NONE) };
        assert_eq!(hole, 0);
        Self(at, length)
    }

    fn end(&self) -> usize {
        self.0 + self.1 - 4096
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is the test's and used no more.
        unsafe { libc::munmap(self.0 as *mut _, self.1) };
    }
}

const EFAULT: Errno = Errno(libc::EFAULT);

#[test]
fn small_structures_fault_exactly() {
    assert_eq!(user(std::ptr::null::<i32>()).read(), Err(EFAULT));
    assert_eq!(user(usize::MAX as *const i32).read(), Err(EFAULT));
    assert_eq!(user(0xffff_8000_0000_0000 as *const i32).read(), Err(EFAULT));
    let value = 42i32;
    assert_eq!(user(&raw const value).read(), Ok(42));
    let mapping = Mapping::new(1, libc::PROT_READ | libc::PROT_WRITE);
    assert_eq!(user((mapping.end() - 4) as *const i32).read(), Ok(0));
    assert_eq!(user((mapping.end() - 2) as *const i32).read(), Err(EFAULT));
    assert_eq!(user((mapping.end() - 2) as *const i32).write(1), Err(EFAULT));
    let constant = Mapping::new(1, libc::PROT_READ);
    assert_eq!(user(constant.0 as *const i32).read(), Ok(0));
    assert_eq!(user(constant.0 as *const i32).write(1), Err(EFAULT));
}

#[test]
fn buffer_is_source_and_sink_across_its_parts() {
    let mut first = *b"abc";
    let mut second = *b"defgh";
    let list = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: 3 },
        libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
        libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: 5 },
    ];
    let mut source = Buffer::scattered(&list, 7);
    let mut bytes = Vec::new();
    assert_eq!(source.remaining(), 7);
    source.append_to(&mut bytes, 4).expect("memory of the test");
    source.append_to(&mut bytes, 3).expect("memory of the test");
    assert_eq!((bytes.as_slice(), source.remaining()), (b"abcdefg".as_slice(), 0));
    assert_eq!(source.append_to(&mut bytes, 1), Err(Fault));

    let mut sink = Buffer::scattered(&list, usize::MAX);
    sink.put(b"12345").expect("memory of the test");
    assert_eq!(sink.room(), 3);
    assert_eq!(sink.put(b"6789"), Err(Fault));
    assert_eq!((&first, &second), (b"123", b"45fgh"));
}

#[test]
fn a_fault_leaves_source_and_target_as_they_were() {
    let mapping = Mapping::new(1, libc::PROT_READ | libc::PROT_WRITE);
    let good = *b"good";
    let list = [
        libc::iovec { iov_base: good.as_ptr().cast_mut().cast(), iov_len: 4 },
        libc::iovec { iov_base: mapping.end() as *mut _, iov_len: 4 },
    ];
    let mut source = Buffer::scattered(&list, usize::MAX);
    let mut bytes = b"before".to_vec();
    assert_eq!(source.append_to(&mut bytes, 8), Err(Fault));
    assert_eq!((bytes.as_slice(), source.remaining()), (b"before".as_slice(), 8));
    source.append_to(&mut bytes, 4).expect("the first part is there");
    assert_eq!(bytes, b"beforegood");
}

#[test]
fn constant_memory_is_no_sink() {
    let constant = Mapping::new(1, libc::PROT_READ);
    // SAFETY: an address of the test's.
    let place = unsafe { User::<u8>::new(constant.0) };
    assert_eq!(Buffer::single(place, 4).put(b"1234"), Err(Fault));
    let mut bytes = Vec::new();
    assert_eq!(Buffer::single(place, 4).append_to(&mut bytes, 4), Ok(()));
}

#[test]
fn iovec_lists_have_linuxs_limits() {
    let list: Vec<libc::iovec> =
        (0..1025).map(|_| libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }).collect();
    assert!(read_vectors(user(list.as_ptr()), 1024).is_ok());
    assert_eq!(read_vectors(user(list.as_ptr()), 1025).err(), Some(Errno(libc::EINVAL)));
    assert_eq!(read_vectors(user(list.as_ptr()), -1).err(), Some(Errno(libc::EINVAL)));
    let negative = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: usize::MAX }];
    assert_eq!(read_vectors(user(negative.as_ptr()), 1).err(), Some(Errno(libc::EINVAL)));
    assert_eq!(read_vectors(user(std::ptr::null()), 1).err(), Some(EFAULT));
}

fn inet(port: u16) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&[10, 99, 0, 2]);
    bytes
}

#[test]
fn an_address_is_checked_in_linuxs_order() {
    //= test REF C-01
    let bytes = inet(80);
    let read = |length: u32| RawName::read(user(bytes.as_ptr()), length);
    assert_eq!(read(u32::MAX).err(), Some(Errno(libc::EINVAL)));
    assert_eq!(read(129).err(), Some(Errno(libc::EINVAL)));
    let nowhere = user(std::ptr::null::<u8>());
    assert_eq!(RawName::read(nowhere, 129).err(), Some(Errno(libc::EINVAL)));
    assert_eq!(RawName::read(nowhere, 16).err(), Some(EFAULT));
    let name = read(16).expect("memory of the test");
    let expected = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)), 80);
    assert_eq!(name.for_connect(AddressFamily::Inet, true), Ok(expected));
    assert_eq!(name.for_connect(AddressFamily::Inet6, true), Err(Errno(libc::EINVAL)));
    assert_eq!(name.for_connect(AddressFamily::Inet6, false), Ok(expected));
    let short = read(15).expect("memory of the test");
    assert_eq!(short.for_connect(AddressFamily::Inet, true), Err(Errno(libc::EINVAL)));
    let mut other = inet(80);
    other[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let other = RawName::read(user(other.as_ptr()), 16).expect("memory of the test");
    assert_eq!(other.for_connect(AddressFamily::Inet, true), Err(Errno(libc::EAFNOSUPPORT)));
}

#[test]
fn unspecified_family_binds_to_the_wildcard_only() {
    let mut bytes = inet(80);
    bytes[..2].fill(0);
    let specific = RawName::read(user(bytes.as_ptr()), 16).expect("memory of the test");
    assert_eq!(specific.for_bind(AddressFamily::Inet), Err(Errno(libc::EAFNOSUPPORT)));
    bytes[4..8].fill(0);
    let wildcard = RawName::read(user(bytes.as_ptr()), 16).expect("memory of the test");
    assert!(wildcard.for_bind(AddressFamily::Inet).is_ok());
}

#[test]
fn names_come_back_in_the_sockets_family() {
    //= test REF S-06
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)), 80);
    let (bytes, length) = address::encode(v4, AddressFamily::Inet);
    assert_eq!((&bytes[..length], length), (inet(80).as_slice(), 16));
    let (bytes, length) = address::encode(v4, AddressFamily::Inet6);
    let name = RawName::read(user(bytes.as_ptr()), length as u32).expect("memory of the test");
    assert_eq!(length, 28);
    assert_eq!(name.for_connect(AddressFamily::Inet6, true), Ok(v4));
    let unbound = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7);
    let (bytes, length) = address::encode(unbound, AddressFamily::Inet6);
    let name = RawName::read(user(bytes.as_ptr()), length as u32).expect("memory of the test");
    let wildcard = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7);
    assert_eq!(name.for_bind(AddressFamily::Inet6), Ok(wildcard));
}

#[test]
fn a_name_is_cut_and_its_length_told() {
    //= test REF L-03
    let name = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)), 80);
    let mut target = [0xffu8; 16];
    let mut length = 4u32;
    let place = user(target.as_mut_ptr().cast_const()).cast();
    assert_eq!(address::write(name, AddressFamily::Inet, place, user(&raw mut length)), Ok(()));
    assert_eq!((length, &target[..4], target[4]), (16, &inet(80)[..4], 0xff));
    length = u32::MAX;
    let refused = address::write(name, AddressFamily::Inet, place, user(&raw mut length));
    assert_eq!(refused, Err(Errno(libc::EINVAL)));
}

#[test]
fn control_messages_survive_the_way_there_and_malformed_ones_are_refused() {
    let mut writer = ControlWriter::default();
    writer.push(libc::IPPROTO_IP, libc::IP_TTL, &64i32.to_ne_bytes());
    writer.push(libc::IPPROTO_IP, libc::IP_TOS, &[8]);
    let bytes = writer.bytes().to_vec();
    let kinds: Vec<_> = controls(&bytes).map(|one| one.map(|one| (one.kind, one.data.len()))).collect();
    assert_eq!(kinds, [Ok((libc::IP_TTL, 4)), Ok((libc::IP_TOS, 1))]);
    let mut overlong = bytes.clone();
    overlong[..8].copy_from_slice(&1000usize.to_ne_bytes());
    assert_eq!(controls(&overlong).next(), Some(Err(Errno(libc::EINVAL))));
    let mut short = bytes;
    short[..8].copy_from_slice(&3usize.to_ne_bytes());
    assert_eq!(controls(&short).next(), Some(Err(Errno(libc::EINVAL))));
    assert_eq!(controls(&[0; 8]).next(), None);
}
