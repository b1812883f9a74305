/* Sockets passed by SCM_RIGHTS to an unrelated process, which runs without any library preloaded: TCP both ways with
 * half-close, the ends of a connection, a connection that both hold, UDP, a listener, and what the far end sees when
 * that process is killed. The program runs itself as the stranger (argument: its end of the control pair). */
#include "t.h"

#define BLOCK 65536
#define AMOUNT (3 << 20)

extern char **environ;

/* One command byte, with a descriptor unless fd is -1. */
static int tell(int pair, char command, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {&command, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    return sendmsg(pair, &message, 0) == 1 ? 0 : -1;
}

/* The stranger's answer: a number. */
static int answer(int pair)
{
    int value = -1;
    return recv(pair, &value, sizeof value, 0) == sizeof value ? value : -2;
}

static int heard(int pair, int *fd)
{
    char command = 0, control[CMSG_SPACE(sizeof *fd)];
    struct iovec part = {&command, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(pair, &message, 0) != 1)
        return 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(header), sizeof *fd);
    return command;
}

/* Sends the pattern and reads it back at the same time; 0, or where it went wrong. */
static int echo_all(int fd)
{
    unsigned char block[BLOCK];
    pid_t writer = fork();
    if (writer == 0) {
        for (size_t done = 0; done < AMOUNT; done += BLOCK) {
            pattern_fill(block, BLOCK, done);
            if (t_write_all(fd, block, BLOCK) != BLOCK)
                _exit(1);
        }
        _exit(shutdown(fd, SHUT_WR) == 0 ? 0 : 2);
    }
    size_t done = 0;
    ssize_t got;
    while ((got = read(fd, block, BLOCK)) > 0) {
        if (pattern_match(block, (size_t)got, done) != (size_t)got)
            return 3;
        done += (size_t)got;
    }
    int status = -1;
    waitpid(writer, &status, 0);
    return got != 0 ? 4 : done != AMOUNT ? 5 : status;
}

/* The poll mask once it is the expected one; priority bands mean nothing on a stream. */
static int mask_settles(int fd, int expected)
{
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    int mask;
    while ((mask = t_mask(fd) & ~(POLLWRBAND | POLLRDBAND)) != expected && t_now_ms() < deadline)
        t_sleep_ms(1);
    return mask;
}

static int stranger(int pair)
{
    char data[2048];
    int fd = -1, other;
    signal(SIGPIPE, SIG_IGN);
    t_arm_deadline(T_DEADLINE_SECONDS);
    for (;;) {
        int command = heard(pair, &fd), value = -1;
        switch (command) {
        case 0:
            return 0;
        case 'E': /* echo everything */
            value = echo_all(fd);
            break;
        case 'm': /* the poll mask once something but OUT is there */
            t_wait(fd, POLLIN | POLLRDHUP);
            value = mask_settles(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR);
            break;
        case 'f': /* the same for a FIN */
            value = mask_settles(fd, MASK_IN | MASK_OUT | POLLRDHUP);
            break;
        case 'r': /* reads: what came, or the error as a negative number */
            value = (int)read(fd, data, 4);
            if (value < 0)
                value = -errno;
            break;
        case 'w': /* writes four bytes of the pattern */
            pattern_fill((unsigned char *)data, 4, 0);
            value = (int)write(fd, data, 4);
            break;
        case 'o': /* eight bytes of the pattern with an urgent one between them */
            pattern_fill((unsigned char *)data, 8, 0);
            value = write(fd, data, 4) == 4 && send(fd, "!", 1, MSG_OOB) == 1 && write(fd, data + 4, 4) == 4;
            break;
        case 'S': { /* answers one datagram of a sender that is not known before */
            struct sockaddr_in sender;
            socklen_t length = sizeof sender;
            value = t_wait(fd, POLLIN) > 0
                        ? (int)recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&sender, &length)
                        : -1;
            if (value >= 0 && sendto(fd, data, (size_t)value, 0, (struct sockaddr *)&sender, length) != value)
                value = -errno;
            break;
        }
        case 'D': /* datagrams of several sizes, one empty; all come back as they were */
            value = 0;
            for (int size = 0; size <= 1400; size += 350) {
                memset(data, size & 0xff, sizeof data);
                if (write(fd, data, (size_t)size) != size)
                    value = 1;
                if (size > 0 && (t_wait(fd, POLLIN) == 0 || recv(fd, data, sizeof data, 0) < 0))
                    value = 2;
            }
            break;
        case 'u': /* one datagram out, its length back */
            memset(data, 'u', sizeof data);
            value = write(fd, data, 700) == 700 && t_wait(fd, POLLIN) > 0 ? (int)recv(fd, data, sizeof data, 0) : -errno;
            break;
        case 'A': /* accepts one, echoes four bytes, closes it */
            other = accept(fd, NULL, NULL);
            value = other < 0 || t_read_all(other, data, 4) != 4 || write(other, data, 4) != 4 || close(other) != 0;
            break;
        case 'c':
            value = close(fd);
            break;
        case 'k':
            value = 0;
            break;
        }
        if (send(pair, &value, sizeof value, 0) != sizeof value)
            return 1;
    }
}

/* Starts the stranger; its pid, and our end of the control pair. */
static pid_t start_stranger(char *path, int *pair)
{
    int both[2];
    char number[16];
    char *words[] = {path, number, NULL}, *nothing[] = {NULL};
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both));
    pid_t child = MUST(fork());
    if (child == 0) {
        fcntl(both[1], F_SETFD, 0);
        snprintf(number, sizeof number, "%d", both[1]);
        execve(path, words, nothing);
        _exit(99);
    }
    close(both[1]);
    *pair = both[0];
    return child;
}

#define ask(pair, command, fd) (tell(pair, command, fd) == 0 ? answer(pair) : -3)

static void streams(char *path)
{
    int pair, control, fd, status;
    unsigned char data[8];
    pid_t child = start_stranger(path, &pair);

    fd = MUST(peer_connect(PORT_ECHO));
    MUST(tell(pair, 'E', fd));
    close(fd);
    CHECK_EQ(answer(pair), 0, "3 MB each way, half-close and end, after the sender closed its copy");
    CHECK_EQ(ask(pair, 'c', -1), 0, "closed");

    fd = peer_pair(&control);
    CHECK_EQ(ask(pair, 'w', fd), 4, "a connection that both hold: the stranger writes");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the peer has it");
    pattern_fill(data, 4, 4);
    CHECK_EQ(write(fd, data, 4), 4, "its sender writes");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the peer has it too");
    CHECK_EQ(ask(pair, 'c', -1), 0, "the stranger closes");
    MUST(peer_tell(control, "SEND 4"));
    CHECK_EQ(t_read_all(fd, data, 4), 4, "the sender reads on");
    MUST(peer_number(control));
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the last close sends the FIN");
    close(control);

    fd = peer_pair(&control);
    MUST(ask(pair, 'k', fd));
    close(fd);
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "data after the sender's close");
    CHECK_EQ(ask(pair, 'r', -1), 4, "is read");
    CHECK_EQ(peer_ask(control, "FIN"), 0, "the peer's FIN");
    CHECK_EQ(ask(pair, 'f', -1), MASK_IN | MASK_OUT | POLLRDHUP, "shows as on TCP");
    CHECK_EQ(ask(pair, 'r', -1), 0, "the end is read");
    CHECK_EQ(ask(pair, 'w', -1), 4, "the other half is open");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the peer reads it");
    CHECK_EQ(ask(pair, 'c', -1), 0, "closed");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer sees the FIN");
    close(control);

    fd = peer_pair(&control);
    CHECK_EQ(ask(pair, 'o', fd), 1, "data around an urgent byte is written");
    CHECK_EQ(peer_ask(control, "RECV 8"), 8, "the peer reads the data without it");
    close(fd);
    MUST(ask(pair, 'c', -1));
    close(control);

    fd = peer_pair(&control);
    MUST(ask(pair, 'k', fd));
    close(fd);
    MUST(peer_ask(control, "RESET"));
    CHECK_EQ(ask(pair, 'm', -1), MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR, "a reset shows as on TCP");
    CHECK_EQ(ask(pair, 'r', -1), -ECONNRESET, "and is read");
    CHECK_EQ(ask(pair, 'r', -1), 0, "once");
    MUST(ask(pair, 'c', -1));
    close(control);

    fd = peer_pair(&control);
    MUST(ask(pair, 'k', fd));
    close(fd);
    CHECK_EQ(ask(pair, 'w', -1), 4, "written");
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "what a killed stranger wrote comes through");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and the FIN after it");
    close(control);
    close(pair);

    child = start_stranger(path, &pair);
    fd = peer_pair(&control);
    MUST(ask(pair, 'k', fd));
    close(fd);
    CHECK_EQ(peer_ask(control, "SEND 8"), 8, "data that a stranger reads half of");
    CHECK_EQ(ask(pair, 'r', -1), 4, "four bytes");
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "its death resets the connection");
    close(control);
    close(pair);
}

static void datagrams_and_listener(char *path)
{
    int pair, port, status, fd = MUST(t_udp(SOCK_CLOEXEC));
    pid_t child = start_stranger(path, &pair);
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    MUST(ask(pair, 'k', fd));
    close(fd);
    CHECK_EQ(ask(pair, 'u', -1), 700, "UDP: a datagram goes and comes");
    CHECK_EQ(ask(pair, 'D', -1), 0, "and more, one of them empty");
    MUST(ask(pair, 'c', -1));

    char data[512] = "question";
    int server = MUST(t_udp(SOCK_CLOEXEC)), clients[2];
    MUST(t_bind(server, T_LOCAL, 0));
    port = t_local_port(server);
    for (int i = 0; i < 2; i++) {
        clients[i] = MUST(t_udp(SOCK_CLOEXEC));
        MUST(t_connect(clients[i], T_LOCAL, port));
    }
    MUST(ask(pair, 'k', server));
    close(server);
    for (int i = 0; i < 4; i++) {
        MUST(send(clients[i % 2], data, (size_t)(100 + i), 0));
        CHECK_EQ(ask(pair, 'S', -1), 100 + i, "a UDP server: datagram %d is answered", i);
        CHECK(t_wait(clients[i % 2], POLLIN) > 0 && recv(clients[i % 2], data, sizeof data, 0) == 100 + i,
              "the answer comes to who asked");
    }
    MUST(ask(pair, 'c', -1));

    int control = MUST(peer_connect(PORT_COMMAND)), listener = t_listener(SOCK_CLOEXEC, &port);
    MUST(ask(pair, 'k', listener));
    close(listener);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "listener: connection %d", i);
        MUST(tell(pair, 'A', -1));
        CHECK_EQ(peer_ask(control, "SEND 4"), 4, "connection %d: sent", i);
        CHECK_EQ(peer_ask(control, "RECV 4"), 4, "connection %d: answered", i);
        CHECK_EQ(answer(pair), 0, "connection %d: served", i);
        CHECK_EQ(peer_ask(control, "WAITEND"), 0, "connection %d: closed", i);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0 && t_now_ms() < deadline)
        t_sleep_ms(50);
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "its death closes the port");
    close(pair);
}

int main(int count, char **arguments)
{
    if (count > 1)
        return stranger(atoi(arguments[1]));
    t_begin();
    streams(arguments[0]);
    datagrams_and_listener(arguments[0]);
    return t_end();
}
