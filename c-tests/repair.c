/* TCP_REPAIR: one process takes a live connection out of its socket and ends; another puts it into a socket of its own
 * and goes on with it. The far end notices nothing. */
#include "t.h"

#include <linux/capability.h>
#include <sys/syscall.h>

#ifndef TCP_REPAIR_WINDOW
#define TCP_REPAIR_WINDOW 29
#endif
enum { NO_QUEUE, RECV_QUEUE, SEND_QUEUE };
enum { KIND_MSS = 2, KIND_WINDOW = 3, KIND_SACK = 4, KIND_TIMESTAMPS = 8 };

struct option_pair {
    uint32_t kind, value;
};

struct saved {
    struct sockaddr_in local, remote;
    uint32_t sequence[3];
    int unread;
    char bytes[64];
    uint32_t window[5];
    struct tcp_info info;
    uint32_t timestamp;
    int mss;
};

static int repair(int fd, int value)
{
    return t_set_option(fd, IPPROTO_TCP, TCP_REPAIR, value);
}

static int use_queue(int fd, int which)
{
    return t_set_option(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, which);
}

static void save(int fd, struct saved *saved)
{
    socklen_t length = sizeof saved->local;
    getsockname(fd, (struct sockaddr *)&saved->local, &length);
    length = sizeof saved->remote;
    getpeername(fd, (struct sockaddr *)&saved->remote, &length);
    MUST(repair(fd, 1));
    length = sizeof saved->info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &saved->info, &length));
    saved->mss = t_option(fd, IPPROTO_TCP, TCP_MAXSEG);
    saved->timestamp = (uint32_t)t_option(fd, IPPROTO_TCP, TCP_TIMESTAMP);
    for (int queue = RECV_QUEUE; queue <= SEND_QUEUE; queue++) {
        MUST(use_queue(fd, queue));
        length = sizeof saved->sequence[queue];
        MUST(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &saved->sequence[queue], &length));
    }
    MUST(use_queue(fd, RECV_QUEUE));
    saved->unread = (int)recv(fd, saved->bytes, sizeof saved->bytes, MSG_PEEK | MSG_DONTWAIT);
    length = sizeof saved->window;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, saved->window, &length));
}

static int revive(const struct saved *saved, const void *unacknowledged, size_t count)
{
    int fd = MUST(t_tcp(0));
    MUST(repair(fd, 1));
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_REPAIR), 1, "TCP_REPAIR is on");
    uint32_t begin = saved->sequence[RECV_QUEUE] - (uint32_t)saved->unread;
    MUST(use_queue(fd, RECV_QUEUE));
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &begin, sizeof begin), 0, "the number of the receive queue");
    MUST(use_queue(fd, SEND_QUEUE));
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &saved->sequence[SEND_QUEUE], 4), 0, "and of the send queue");
    CHECK_EQ(bind(fd, (struct sockaddr *)&saved->local, sizeof saved->local), 0, "bind to the same port");
    CHECK_EQ(connect(fd, (struct sockaddr *)&saved->remote, sizeof saved->remote), 0, "connect at once");
    CHECK_EQ(t_tcp_state(fd), TCP_ESTABLISHED, "the connection stands");
    uint32_t scales = saved->info.tcpi_snd_wscale | (uint32_t)saved->info.tcpi_rcv_wscale << 16;
    struct option_pair options[] = {
        {KIND_MSS, (uint32_t)saved->mss}, {KIND_WINDOW, scales}, {KIND_SACK, 0}, {KIND_TIMESTAMPS, 0}};
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, sizeof options), 0, "the options");
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &saved->timestamp, 4), 0, "the clock of the timestamps");
    MUST(use_queue(fd, RECV_QUEUE));
    CHECK_EQ(send(fd, saved->bytes, (size_t)saved->unread, 0), saved->unread, "bytes into the receive queue");
    MUST(use_queue(fd, SEND_QUEUE));
    CHECK_EQ(send(fd, unacknowledged, count, 0), count, "bytes into the send queue, as if sent");
    char look[64];
    CHECK_EQ(recv(fd, look, sizeof look, MSG_PEEK), count, "they can be looked at");
    CHECK(memcmp(look, unacknowledged, count) == 0, "and are the same");
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, saved->window, sizeof saved->window), 0, "the windows");
    CHECK_EQ(repair(fd, 0), 0, "TCP_REPAIR off");
    return fd;
}

/* test REF C-16 */
static void moves_between_processes(int control)
{
    unsigned char pattern[64];
    char data[64];
    int ends[2], status = -1, port = peer_ask(control, "LISTEN");
    struct saved saved = {0};
    pattern_fill(pattern, sizeof pattern, 0);
    MUST(pipe(ends));
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        int fd = MUST(t_tcp(0));
        MUST(t_connect(fd, T_PEER, port));
        MUST(write(fd, pattern, 10));
        /* All of it is acknowledged, and the peer's answer is here unread, before anything is saved. */
        MUST(write(ends[1], "!", 1));
        while (recv(fd, data, 16, MSG_PEEK) < 16)
            t_sleep_ms(1);
        save(fd, &saved);
        MUST(close(fd));
        MUST(write(ends[1], &saved, sizeof saved));
        _exit(0);
    }
    CHECK_EQ(t_read_all(ends[0], data, 1), 1, "the first process has connected");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "the peer has the connection");
    CHECK_EQ(peer_ask(control, "RECV 10"), 10, "and its bytes");
    CHECK_EQ(peer_ask(control, "SEND 16"), 16, "the peer answers");
    CHECK_EQ(t_read_all(ends[0], &saved, sizeof saved), sizeof saved, "the connection is saved");
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "the first process is gone");
    CHECK_EQ(saved.unread, 16, "with bytes that it never read");
    CHECK_EQ(peer_ask(control, "STATE"), TCP_ESTABLISHED, "the peer noticed nothing");

    int fd = revive(&saved, pattern + 10, 7);
    CHECK_EQ(peer_ask(control, "RECV 7"), 7, "what was not acknowledged is repeated");
    CHECK_EQ(t_read_all(fd, data, 16), 16, "what was unread is read here");
    CHECK(memcmp(data, pattern, 16) == 0, "and is what the peer sent");
    CHECK_EQ(write(fd, pattern + 17, 20), 20, "the connection goes on");
    CHECK_EQ(peer_ask(control, "RECV 20"), 20, "to the peer");
    CHECK_EQ(peer_ask(control, "SEND 8"), 8, "and from it");
    CHECK_EQ(t_read_all(fd, data, 8), 8, "to us");
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and ends with a FIN");
    close(ends[0]);
    close(ends[1]);
}

static void rules(void)
{
    char byte;
    int port, fd = MUST(t_tcp(0)), listener = t_listener(0, &port);
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_REPAIR), 0, "TCP_REPAIR is off");
    CHECK_ERRNO(use_queue(fd, SEND_QUEUE), EPERM, "TCP_REPAIR_QUEUE without it: EPERM");
    CHECK_ERRNO(t_set_option(fd, IPPROTO_TCP, TCP_TIMESTAMP, 1), EPERM, "TCP_TIMESTAMP: EPERM");
    CHECK_ERRNO(repair(fd, 7), EINVAL, "7 is no value: EINVAL");
    CHECK_ERRNO(repair(listener, 1), EPERM, "a listener: EPERM");
    CHECK_EQ(repair(fd, 1), 0, "on");
    CHECK_ERRNO(t_set_option(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, 1), EINVAL, "TCP_QUEUE_SEQ of no queue: EINVAL");
    CHECK_ERRNO(use_queue(fd, 3), EINVAL, "there are three: EINVAL");
    CHECK_EQ(use_queue(fd, SEND_QUEUE), 0, "the send queue");
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE), SEND_QUEUE, "is the one");
    CHECK_EQ(t_set_option(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, 1000), 0, "gets a number");
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_QUEUE_SEQ), 1000, "and has it");
    CHECK_ERRNO(recv(fd, &byte, 1, 0), EPERM, "a read that is no peek: EPERM");
    CHECK_EQ(repair(fd, -1), 0, "off without a probe");
    close(fd);
    close(listener);
}

static void unprivileged(void)
{
    int status = -1;
    pid_t child = MUST(fork());
    if (child == 0) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct sets[2];
        memset(sets, 0, sizeof sets);
        if (syscall(SYS_capset, &header, sets) != 0)
            _exit(1);
        int fd = t_tcp(0);
        _exit(repair(fd, 1) == -1 && errno == EPERM ? 0 : 2);
    }
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "without CAP_NET_ADMIN: EPERM");
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    rules();
    moves_between_processes(control);
    unprivileged();
    return t_end();
}
