/* O_ASYNC: SIGIO or the signal of F_SETSIG to the owner, with number and band; SIGURG for urgent data; owners that are
 * threads, other processes, groups. */
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "t.h"

static volatile sig_atomic_t count, last_signal, last_fd, last_code, last_thread;
static volatile long last_band;

static void note(int number, siginfo_t *information, void *context)
{
    (void)context;
    last_signal = number;
    last_code = information->si_code;
    last_fd = information->si_fd;
    last_band = information->si_band;
    last_thread = (int)syscall(SYS_gettid);
    count = count + 1;
}

static void catch(int number)
{
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static bool comes(int expected)
{
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (count < expected && t_now_ms() < deadline)
        t_sleep_ms(1);
    t_sleep_ms(20);
    return count == expected;
}

static int async(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    return fcntl(fd, F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC);
}

static void plain(void)
{
    int control, fd = peer_pair(&control), on = 1, off = 0;
    char bytes[8];

    CHECK_EQ(fcntl(fd, F_GETOWN), 0, "nobody owns a socket at first");
    CHECK_EQ(fcntl(fd, F_SETOWN, getpid()), 0, "F_SETOWN");
    CHECK_EQ(fcntl(fd, F_GETOWN), getpid(), "F_GETOWN");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(0), "an owner without O_ASYNC hears nothing");
    CHECK_EQ(async(fd, true), 0, "O_ASYNC");
    CHECK((fcntl(fd, F_GETFL) & O_ASYNC) != 0, "F_GETFL has it");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(1), "input: one signal");
    CHECK_EQ(last_signal, SIGIO, "SIGIO");
    CHECK_EQ(last_code, SI_KERNEL, "of the kernel");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(2), "more input without a read: another");
    CHECK_EQ(fcntl(fd, F_SETSIG, SIGRTMIN + 3), 0, "F_SETSIG");
    CHECK_EQ(fcntl(fd, F_GETSIG), SIGRTMIN + 3, "F_GETSIG");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(3), "the signal asked for");
    CHECK_EQ(last_signal, SIGRTMIN + 3, "comes");
    CHECK_EQ(last_fd, fd, "with the number");
    CHECK_EQ(last_code, POLL_IN, "POLL_IN");
    CHECK_EQ(last_band & (POLLIN | POLLRDNORM), POLLIN | POLLRDNORM, "and the band");
    CHECK_EQ(t_read_all(fd, bytes, 4), 4, "all four bytes are there");
    CHECK_EQ(ioctl(fd, FIOASYNC, &off), 0, "FIOASYNC off");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(3), "no signal then");
    CHECK_EQ(ioctl(fd, FIOASYNC, &on), 0, "FIOASYNC on");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(4), "again");
    /* A duplicate is the same file: the number stays that of the descriptor that switched it on. */
    int copy = MUST(dup(fd));
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(5), "one signal however many duplicates");
    CHECK_EQ(last_fd, fd, "with the number that switched it on");
    close(copy);
    CHECK_EQ(fcntl(fd, F_SETOWN, 0), 0, "no owner");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(comes(5), "no signal");
    CHECK_EQ(fcntl(fd, F_SETOWN, getpid()), 0, "an owner again");
    MUST(peer_ask(control, "FIN"));
    CHECK(comes(6) || count == 7, "the end of the stream signals");
    CHECK_EQ(last_code, POLL_IN, "as input");
    close(fd);
    close(control);
}

static void others(void)
{
    int control, other_control, port, fd, listener = t_listener(SOCK_NONBLOCK, &port), ready[2];
    control = MUST(peer_connect(PORT_COMMAND));
    count = 0;
    MUST(fcntl(listener, F_SETSIG, SIGRTMIN + 3));
    MUST(fcntl(listener, F_SETOWN, getpid()));
    MUST(async(listener, true));
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    CHECK(comes(1), "a connection signals the listener's owner");
    CHECK(last_fd == listener && last_code == POLL_IN, "with its number");
    close(listener);

    /* Another process, which has the socket too and sleeps. */
    fd = peer_pair(&other_control);
    MUST(pipe(ready));
    pid_t child = MUST(fork());
    if (child == 0) {
        struct timespec patience = {5, 0};
        siginfo_t information;
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN + 4);
        sigprocmask(SIG_BLOCK, &set, NULL);
        t_write_all(ready[1], "x", 1);
        int number = sigtimedwait(&set, &information, &patience);
        _exit(number == SIGRTMIN + 4 && information.si_fd == fd && (information.si_band & POLLIN) ? 0 : 1);
    }
    char byte;
    MUST(read(ready[0], &byte, 1));
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 4));
    MUST(fcntl(fd, F_SETOWN, child));
    MUST(async(fd, true));
    MUST(peer_ask(other_control, "SEND 1"));
    int status;
    MUST(waitpid(child, &status, 0));
    CHECK_EQ(status, 0, "an owner that is another process is signalled, with number and band");

    /* One thread. */
    struct f_owner_ex owner = {F_OWNER_TID, (int)syscall(SYS_gettid)}, back = {0, 0};
    count = 0;
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 3));
    CHECK_EQ(fcntl(fd, F_SETOWN_EX, &owner), 0, "F_SETOWN_EX");
    CHECK_EQ(fcntl(fd, F_GETOWN_EX, &back), 0, "F_GETOWN_EX");
    CHECK(back.type == F_OWNER_TID && back.pid == owner.pid, "says the same");
    MUST(peer_ask(other_control, "SEND 1"));
    CHECK(comes(1), "a thread as owner");
    CHECK_EQ(last_thread, owner.pid, "gets it");
    /* The group. */
    MUST(setpgid(0, 0));
    CHECK_EQ(fcntl(fd, F_SETOWN, -getpgrp()), 0, "a group as owner");
    MUST(peer_ask(other_control, "SEND 1"));
    CHECK(comes(2), "gets it");
    CHECK_ERRNO(fcntl(fd, F_SETOWN, 0x3fffffff), ESRCH, "no such process: ESRCH");
    CHECK_ERRNO(fcntl(fd, F_SETSIG, 65), EINVAL, "no such signal: EINVAL");
    MUST(fcntl(fd, F_SETSIG, 0));
    MUST(peer_ask(other_control, "RESET"));
    CHECK(comes(3), "a reset signals");
    CHECK_EQ(last_signal, SIGIO, "SIGIO again");
    close(fd);
    close(control);
    close(other_control);
}

/* test REF C-06 */
/* test RFC 9293 §3.8.5 (MUST-32) */
int main(void)
{
    t_begin();
    catch(SIGIO);
    catch(SIGRTMIN + 3);
    plain();
    others();
    return t_end();
}
