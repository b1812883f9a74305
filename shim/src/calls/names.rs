//! getsockname and getpeername: names come back in the socket's family.

use remora_host::sys::Errno;

use super::{gone, socket_of, traced};
use crate::abi::address;
use crate::abi::{Outcome, User};
use crate::errno;

pub(crate) fn getsockname(fd: i32, target: User<libc::sockaddr>, length: User<u32>) -> Outcome<i32> {
    name(fd, target, length, false)
}

pub(crate) fn getpeername(fd: i32, target: User<libc::sockaddr>, length: User<u32>) -> Outcome<i32> {
    name(fd, target, length, true)
}

//= REF S-06
fn name(fd: i32, target: User<libc::sockaddr>, length: User<u32>, peer: bool) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let found = runtime
        .with_socket(
            handle.id,
            |stack, socket, _| if peer { stack.peer_name(socket) } else { stack.local_name(socket) },
        )
        .ok_or_else(|| gone(fd, handle.id))
        .and_then(|result| result.map_err(errno::name));
    let call = if peer { "getpeername" } else { "getsockname" };
    match found {
        Ok(name) => {
            let result: Result<i32, Errno> = address::write(name, handle.family, target, length).map(|()| 0);
            traced(format_args!("{call}({fd}, {name})"), result)
        }
        Err(errno) => traced(format_args!("{call}({fd})"), Err(errno)),
    }
}
