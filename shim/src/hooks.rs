//! Every interposed symbol: one row each, its C prototype, with other names of the same function after a bar. `descriptor` rows are decided by their first argument (one
//! table load; a foreign one goes straight to libc); `message` rows too, and what a foreign one
//! receives is looked through for sockets of ours; `call` rows by the call itself; `variadic` rows are variadic in C
//! and take their optional word as a fixed argument, which is the same on x86_64 (System V) and arm64 (AAPCS64 Linux);
//! `interfaces` rows show the stack's too, `resolver` rows run with the name servers that `abi::resolver` says;
//! `fork` and `vfork` rows tell the runtime; `image` rows start another image and are written out in `abi::exec`;
//! `deep` rows keep the program's own system calls caught, and do nothing else;
//! `epoll` rows can be sent back from the kernel to wait again;
//! `redhook` rows are the cold calls of fixed arity that never block, by way of the redhook crate.
//!
//! Not here, because libc's own does the right thing on a placeholder, which is a real AF_UNIX socket of the same
//! type: isatty (ENOTTY), lseek (ESPIPE), fsync (EINVAL), isfdtype, socketpair.
#![allow(non_snake_case)]
#![cfg_attr(test, allow(dead_code, unused_imports))]

use std::ffi::{c_char, c_int, c_void};

use libc::{
    FILE, addrinfo, epoll_event, fd_set, hostent, ifaddrs, iovec, mmsghdr, msghdr, pollfd, sigaction as Action,
    sigset_t, sockaddr, stat as Status, timespec, timeval,
};

use crate::abi::FromC;
use crate::abi::background::{Event, Request};
use crate::{abi, calls, fdtable};

macro_rules! original {
    (redhook $name:ident $arguments:tt -> $result:ty) => {};
    (variadic $name:ident ($($argument:ident : $kind:ty),* ; $last:ident : $last_kind:ty) -> $result:ty) => {
        pub(crate) static $name: Symbol<unsafe extern "C-unwind" fn($($kind),*, ...) -> $result> =
            // SAFETY: the row is the C prototype of the symbol that it names.
            unsafe { Symbol::new(name_of(concat!(stringify!($name), "\0"))) };
    };
    ($group:ident $name:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {
        pub(crate) static $name: Symbol<unsafe extern "C-unwind" fn($($kind),*) -> $result> =
            // SAFETY: the row is the C prototype of the symbol that it names.
            unsafe { Symbol::new(name_of(concat!(stringify!($name), "\0"))) };
    };
}

macro_rules! resolve {
    (redhook $name:ident) => {
        #[cfg(not(test))]
        redhooked::$name::resolve();
    };
    ($group:ident $name:ident) => {
        real::$name.resolve();
    };
}

macro_rules! entry {
    (descriptor $name:ident $call:ident
        ($fd:ident : $fd_kind:ty $(, $argument:ident : $kind:ty)*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($fd: $fd_kind $(, $argument: $kind)*) -> $result {
            if !fdtable::is_ours($fd) {
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                return unsafe { (real::$name.get())($fd $(, $argument)*) };
            }
            abi::enter(
                // SAFETY: each argument is exactly what the C caller passed.
                || calls::$call($fd $(, unsafe { FromC::into_rust($argument) })*),
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                || unsafe { (real::$name.get())($fd $(, $argument)*) },
            )
        }
    };
    (message $name:ident $call:ident ($fd:ident : $fd_kind:ty, $message:ident : $message_kind:ty
        $(, $argument:ident : $kind:ty)*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($fd: $fd_kind, $message: $message_kind $(, $argument: $kind)*) -> $result {
            if !fdtable::is_ours($fd) {
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                let result = unsafe { (real::$name.get())($fd, $message $(, $argument)*) };
                abi::received::$call($message, result);
                return result;
            }
            abi::enter(
                // SAFETY: each argument is exactly what the C caller passed.
                || calls::$call($fd, unsafe { FromC::into_rust($message) } $(, unsafe { FromC::into_rust($argument) })*),
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                || unsafe { (real::$name.get())($fd, $message $(, $argument)*) },
            )
        }
    };
    (call $name:ident $call:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            abi::enter(
                // SAFETY: each argument is exactly what the C caller passed.
                || calls::$call($(unsafe { FromC::into_rust($argument) }),*),
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                || unsafe { (real::$name.get())($($argument),*) },
            )
        }
    };
    (variadic $name:ident $call:ident
        ($fd:ident : $fd_kind:ty $(, $argument:ident : $kind:ty)* ; $last:ident : $last_kind:ty) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($fd: $fd_kind $(, $argument: $kind)* , $last: $last_kind) -> $result {
            if !fdtable::is_ours($fd) {
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                return unsafe { (real::$name.get())($fd $(, $argument)* , $last) };
            }
            abi::enter(
                || calls::$call($fd $(, $argument)* , $last),
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                || unsafe { (real::$name.get())($fd $(, $argument)* , $last) },
            )
        }
    };
    (image $name:ident $call:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            abi::exec::$call($($argument),*)
        }
    };
    (deep $name:ident $call:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            abi::deep::$call($($argument),*)
        }
    };
    (resolver $name:ident $call:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            abi::resolver::$call($($argument),*)
        }
    };
    (interfaces $name:ident $call:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            abi::interfaces::$call($($argument),*)
        }
    };
    (epoll $name:ident $call:ident
        ($set:ident : $set_kind:ty, $events:ident : $events_kind:ty $(, $argument:ident : $kind:ty)*) -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($set: $set_kind, $events: $events_kind $(, $argument: $kind)*) -> $result {
            if !fdtable::is_ours($set) {
                // SAFETY: the caller's own arguments, to the function that it meant to call.
                return unsafe { (real::$name.get())($set, $events $(, $argument)*) };
            }
            loop {
                calls::before_epoll($set);
                let mut count = abi::enter(
                    || {
                        calls::$call(
                            $set,
                            // SAFETY: exactly what the C caller passed.
                            unsafe { FromC::into_rust($events) },
                            // SAFETY: each argument is exactly what the C caller passed.
                            $(unsafe { FromC::into_rust($argument) }),*
                        )
                    },
                    // SAFETY: the caller's own arguments, to the function that it meant to call.
                    || unsafe { (real::$name.get())($set, $events $(, $argument)*) },
                );
                // SAFETY: exactly what the C caller passed.
                if !calls::after_epoll($set, unsafe { FromC::into_rust($events) }, &mut count) {
                    return count;
                }
            }
        }
    };
    (fork $name:ident $call:ident () -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name() -> $result {
            // SAFETY: the function that the caller meant to call.
            calls::process::fork(|| unsafe { (real::$name.get())() })
        }
    };
    (vfork $name:ident $call:ident () -> $result:ty) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name() -> $result {
            // SAFETY: fork, which does all that vfork promises.
            calls::process::fork(|| unsafe { (real::fork.get())() })
        }
    };
    (redhook $name:ident $call:ident ($($argument:ident : $kind:ty),*) -> $result:ty) => {};
}

macro_rules! redhook_entry {
    (redhook $name:ident ($fd:ident : $fd_kind:ty $(, $argument:ident : $kind:ty)*) -> $result:ty) => {
        pub mod $name {
            use super::super::*;
            redhook::hook! {
                unsafe fn $name($fd: $fd_kind $(, $argument: $kind)*) -> $result => hook {
                    if !fdtable::is_ours($fd) {
                        // SAFETY: the caller's own arguments, to the function that it meant to call.
                        return unsafe { redhook::real!($name)($fd $(, $argument)*) };
                    }
                    abi::enter(
                        // SAFETY: each argument is exactly what the C caller passed.
                        || calls::$name($fd $(, unsafe { FromC::into_rust($argument) })*),
                        // SAFETY: the caller's own arguments, to the function that it meant to call.
                        || unsafe { redhook::real!($name)($fd $(, $argument)*) },
                    )
                }
            }
            pub(crate) fn resolve() {
                let _ = redhook::real!($name);
            }
        }
    };
    ($group:ident $name:ident $arguments:tt -> $result:ty) => {};
}

macro_rules! hooks {
    ($($group:ident {
        $(fn $first:ident $arguments:tt -> $result:ty $(| $alias:ident)*;)*
    })*) => {
        /// The originals.
        #[allow(non_upper_case_globals)]
        pub(crate) mod real {
            use super::*;
            use crate::real::{Symbol, name_of};
            $($(
                original!($group $first $arguments -> $result);
                $(original!($group $alias $arguments -> $result);)*
            )*)*
        }
        $($(
            entry!($group $first $first $arguments -> $result);
            $(entry!($group $alias $first $arguments -> $result);)*
        )*)*
        #[cfg(not(test))]
        #[allow(non_camel_case_types, clippy::missing_safety_doc, clippy::multiple_unsafe_ops_per_block)]
        pub mod redhooked {
            $($(redhook_entry!($group $first $arguments -> $result);)*)*
        }
        /// Looks up all originals.
        pub(crate) fn resolve_all() {
            $($(
                resolve!($group $first);
                $(resolve!($group $alias);)*
            )*)*
        }
    };
}

hooks! {
    call {
        fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    }
    redhook {
        fn bind(fd: c_int, address: *const sockaddr, length: u32) -> c_int;
        fn listen(fd: c_int, backlog: c_int) -> c_int;
        fn shutdown(fd: c_int, how: c_int) -> c_int;
        fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut u32) -> c_int;
        fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut u32) -> c_int;
        fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut u32) -> c_int;
        fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
        fn sockatmark(fd: c_int) -> c_int;
        fn bindresvport(fd: c_int, address: *mut sockaddr) -> c_int;
    }
    descriptor {
        fn connect(fd: c_int, address: *const sockaddr, length: u32) -> c_int | __connect;
        fn accept(fd: c_int, address: *mut sockaddr, length: *mut u32) -> c_int;
        fn accept4(fd: c_int, address: *mut sockaddr, length: *mut u32, flags: c_int) -> c_int;

        fn read(fd: c_int, buffer: *mut u8, size: usize) -> isize | __read;
        fn __read_chk(fd: c_int, buffer: *mut u8, size: usize, room: usize) -> isize;
        fn readv(fd: c_int, list: *const iovec, count: c_int) -> isize;
        fn pread(fd: c_int, buffer: *mut u8, size: usize, offset: i64) -> isize | pread64 | __pread64;
        fn __pread_chk(fd: c_int, buffer: *mut u8, size: usize, offset: i64, room: usize) -> isize | __pread64_chk;
        fn preadv(fd: c_int, list: *const iovec, count: c_int, offset: i64) -> isize | preadv64;
        fn preadv2(fd: c_int, list: *const iovec, count: c_int, offset: i64, flags: c_int) -> isize | preadv64v2;
        fn write(fd: c_int, buffer: *const u8, size: usize) -> isize | __write;
        fn writev(fd: c_int, list: *const iovec, count: c_int) -> isize;
        fn pwrite(fd: c_int, buffer: *const u8, size: usize, offset: i64) -> isize | pwrite64 | __pwrite64;
        fn pwritev(fd: c_int, list: *const iovec, count: c_int, offset: i64) -> isize | pwritev64;
        fn pwritev2(fd: c_int, list: *const iovec, count: c_int, offset: i64, flags: c_int) -> isize | pwritev64v2;
        fn send(fd: c_int, buffer: *const u8, size: usize, flags: c_int) -> isize | __send;
        fn sendto(fd: c_int, buffer: *const u8, size: usize, flags: c_int, address: *const sockaddr, length: u32)
            -> isize;
        fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: u32, flags: c_int) -> c_int;
        fn recv(fd: c_int, buffer: *mut u8, size: usize, flags: c_int) -> isize;
        fn __recv_chk(fd: c_int, buffer: *mut u8, size: usize, room: usize, flags: c_int) -> isize;
        fn recvfrom(fd: c_int, buffer: *mut u8, size: usize, flags: c_int, address: *mut sockaddr, length: *mut u32)
            -> isize;
        fn __recvfrom_chk(fd: c_int, buffer: *mut u8, size: usize, room: usize, flags: c_int, address: *mut sockaddr,
            length: *mut u32) -> isize;
        fn vmsplice(fd: c_int, list: *const iovec, count: usize, flags: u32) -> isize;

        fn dup(fd: c_int) -> c_int | __dup;
        fn fstat(fd: c_int, status: *mut Status) -> c_int | fstat64;
        fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE | _IO_fdopen;
        fn vdprintf(fd: c_int, format: *const c_char, list: *mut c_void) -> c_int;
        fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, list: *mut c_void) -> c_int;
    }
    epoll {
        fn epoll_wait(set: c_int, events: *mut epoll_event, room: c_int, timeout: c_int) -> c_int;
        fn epoll_pwait(set: c_int, events: *mut epoll_event, room: c_int, timeout: c_int, mask: *const sigset_t)
            -> c_int;
        fn epoll_pwait2(set: c_int, events: *mut epoll_event, room: c_int, timeout: *const timespec,
            mask: *const sigset_t) -> c_int;
    }
    message {
        fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> isize;
        fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: u32, flags: c_int, timeout: *mut timespec) -> c_int;
    }
    variadic {
        fn fcntl(fd: c_int, command: c_int; argument: usize) -> c_int | fcntl64 | __fcntl;
        fn ioctl(fd: c_int, request: usize; argument: usize) -> c_int;
    }
    fork {
        fn fork() -> c_int | __fork;
        fn _Fork() -> c_int;
    }
    vfork {
        fn vfork() -> c_int | __vfork;
    }
    image {
        fn execve(file: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
        fn execv(file: *const c_char, arguments: *const *const c_char) -> c_int;
        fn execvp(file: *const c_char, arguments: *const *const c_char) -> c_int;
        fn execvpe(file: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
        fn fexecve(fd: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
        fn execveat(directory: c_int, file: *const c_char, arguments: *const *const c_char,
            environment: *const *const c_char, flags: c_int) -> c_int;
        fn posix_spawn(pid: *mut c_int, file: *const c_char, actions: *const c_void, attributes: *const c_void,
            arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
        fn posix_spawnp(pid: *mut c_int, file: *const c_char, actions: *const c_void, attributes: *const c_void,
            arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
        fn posix_spawn_file_actions_adddup2(actions: *mut c_void, fd: c_int, target: c_int) -> c_int;
        fn system(command: *const c_char) -> c_int;
        fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE | _IO_popen;
    }
    deep {
        fn sigprocmask(how: c_int, set: *const sigset_t, old: *mut sigset_t) -> c_int;
        fn pthread_sigmask(how: c_int, set: *const sigset_t, old: *mut sigset_t) -> c_int;
        fn sigblock(mask: c_int) -> c_int;
        fn sigsetmask(mask: c_int) -> c_int;
        fn pthread_create(thread: *mut usize, attributes: *const c_void,
            routine: unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) -> c_int;
        fn thrd_create(thread: *mut usize, routine: unsafe extern "C-unwind" fn(*mut c_void) -> c_int,
            argument: *mut c_void) -> c_int;
    }
    interfaces {
        fn getifaddrs(list: *mut *mut ifaddrs) -> c_int;
        fn freeifaddrs(list: *mut ifaddrs) -> ();
        fn if_nameindex() -> *mut libc::if_nameindex;
    }
    resolver {
        fn getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo, result: *mut *mut addrinfo)
            -> c_int;
        fn getaddrinfo_a(mode: c_int, list: *const *mut Request, count: c_int, event: *const Event) -> c_int;
        fn gai_suspend(list: *const *mut Request, count: c_int, timeout: *const timespec) -> c_int;
        fn gai_cancel(request: *mut Request) -> c_int;
        fn getnameinfo(address: *const sockaddr, length: u32, host: *mut c_char, host_room: u32, service: *mut c_char,
            service_room: u32, flags: c_int) -> c_int;
        fn gethostbyname(name: *const c_char) -> *mut hostent;
        fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent;
        fn gethostbyname_r(name: *const c_char, entry: *mut hostent, room: *mut c_char, size: usize,
            result: *mut *mut hostent, error: *mut c_int) -> c_int;
        fn gethostbyname2_r(name: *const c_char, family: c_int, entry: *mut hostent, room: *mut c_char, size: usize,
            result: *mut *mut hostent, error: *mut c_int) -> c_int;
        fn gethostbyaddr(address: *const c_void, length: u32, family: c_int) -> *mut hostent;
        fn gethostbyaddr_r(address: *const c_void, length: u32, family: c_int, entry: *mut hostent, room: *mut c_char,
            size: usize, result: *mut *mut hostent, error: *mut c_int) -> c_int;
        fn res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, room: c_int) -> c_int
            | __res_query;
        fn res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, room: c_int) -> c_int
            | __res_search;
        fn res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8,
            room: c_int) -> c_int | __res_querydomain;
        fn res_send(query: *const u8, length: c_int, answer: *mut u8, room: c_int) -> c_int | __res_send;
        fn res_nquery(state: *mut c_void, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8,
            room: c_int) -> c_int | __res_nquery;
        fn res_nsearch(state: *mut c_void, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8,
            room: c_int) -> c_int | __res_nsearch;
        fn res_nquerydomain(state: *mut c_void, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int,
            answer: *mut u8, room: c_int) -> c_int | __res_nquerydomain;
        fn res_nsend(state: *mut c_void, query: *const u8, length: c_int, answer: *mut u8, room: c_int) -> c_int
            | __res_nsend;
    }
    call {
        fn syscall(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> i64;
        fn sendfile(to: c_int, from: c_int, offset: *mut i64, count: usize) -> isize | sendfile64;
        fn splice(from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, count: usize, flags: u32)
            -> isize;
        fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> isize;
        fn tee(from: c_int, to: c_int, count: usize, flags: u32) -> isize;
        fn copy_file_range(from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, count: usize, flags: u32)
            -> isize;

        fn poll(set: *mut pollfd, count: usize, timeout: c_int) -> c_int | __poll;
        fn __poll_chk(set: *mut pollfd, count: usize, timeout: c_int, room: usize) -> c_int;
        fn ppoll(set: *mut pollfd, count: usize, timeout: *const timespec, mask: *const sigset_t) -> c_int;
        fn __ppoll_chk(set: *mut pollfd, count: usize, timeout: *const timespec, mask: *const sigset_t, room: usize)
            -> c_int;
        fn select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set,
            timeout: *mut timeval) -> c_int | __select;
        fn pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set,
            timeout: *const timespec, mask: *const sigset_t) -> c_int;
        fn epoll_create(size: c_int) -> c_int;
        fn epoll_create1(flags: c_int) -> c_int;
        fn epoll_ctl(set: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int;

        fn close(fd: c_int) -> c_int | __close;
        fn close_range(first: u32, last: u32, flags: c_int) -> c_int;
        fn closefrom(first: c_int) -> ();
        fn dup2(fd: c_int, target: c_int) -> c_int | __dup2;
        fn dup3(fd: c_int, target: c_int, flags: c_int) -> c_int;
        fn fileno(file: *mut FILE) -> c_int | fileno_unlocked;

        fn prctl(option: c_int, b: usize, c: usize, d: usize, e: usize) -> c_int;
        fn pthread_cancel(thread: usize) -> c_int;
        fn pthread_setcanceltype(kind: c_int, before: *mut c_int) -> c_int;
        fn _exit(status: c_int) -> () | _Exit;
        fn quick_exit(status: c_int) -> ();
        fn getrlimit(resource: c_int, limit: *mut u64) -> c_int | getrlimit64;
        fn setrlimit(resource: c_int, limit: *const u64) -> c_int | setrlimit64;
        fn prlimit(process: c_int, resource: c_int, new: *const u64, old: *mut u64) -> c_int | prlimit64;
        fn capset(header: *mut u32, data: *const u32) -> c_int;
        fn setuid(user: u32) -> c_int;
        fn seteuid(effective: u32) -> c_int;
        fn setreuid(real: u32, effective: u32) -> c_int;
        fn setresuid(real: u32, effective: u32, saved: u32) -> c_int;

        fn sigaction(signal: c_int, action: *const Action, old: *mut Action) -> c_int | __sigaction;
        fn signal(signal: c_int, handler: usize) -> usize | bsd_signal | ssignal;
        fn sysv_signal(signal: c_int, handler: usize) -> usize | __sysv_signal;
        fn sigset(signal: c_int, handler: usize) -> usize;
        fn siginterrupt(signal: c_int, flag: c_int) -> c_int;
    }
}
