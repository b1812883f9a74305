/* A connection passed by SCM_RIGHTS to a forked child that goes on using the same stack: everything that has come, and the
 * end after it, is read there, however soon the child takes it. More pairs than there are CPUs, so that some child has its
 * connection before the sender has come back from sendmsg. */
#include "services.h"
#include "t.h"

#define ROUNDS 100
#define PAIRS 4
#define MOST 30000

static int pass(int pair, int fd)
{
    char byte = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(pair, &message, 0) == 1 ? 0 : -1;
}

static int passed(int pair)
{
    int fd = -1;
    char byte, control[CMSG_SPACE(sizeof fd)];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(pair, &message, 0) != 1)
        return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

/* Reads one connection after another to its end and answers how much of the pattern came. */
static void child(int pair)
{
    static unsigned char data[MOST + 1];
    int fd;
    while ((fd = passed(pair)) >= 0) {
        size_t length = 0;
        ssize_t got;
        while ((got = read(fd, data + length, sizeof data - length)) > 0)
            length += (size_t)got;
        int value = got < 0 ? -errno : (int)pattern_match(data, length, 0);
        if (value >= 0 && (write(fd, "x", 1) != 1 || close(fd) != 0))
            value = -1000;
        if (send(pair, &value, sizeof value, 0) != sizeof value)
            break;
    }
    _exit(0);
}

/* Rounds with the end come before, with only data come, and with nothing come; returns how many went wrong. */
static int rounds(int pair)
{
    int wrong = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int value = -1, fd = MUST(peer_connect(PORT_SOURCE)), wanted = (round + 1) * (MOST / ROUNDS);
        char request[16];
        int length = snprintf(request, sizeof request, "%d\n", wanted);
        MUST(write(fd, request, (size_t)length));
        if (round % 3 > 0)
            t_wait(fd, round % 3 == 1 ? POLLRDHUP : POLLIN);
        MUST(pass(pair, fd));
        close(fd);
        MUST(recv(pair, &value, sizeof value, 0));
        wrong += value != wanted;
    }
    return wrong;
}

int main(void)
{
    pid_t senders[PAIRS];
    t_begin();
    close(MUST(peer_connect(PORT_SOURCE)));
    for (int number = 0; number < PAIRS; number++) {
        senders[number] = MUST(fork());
        if (senders[number] > 0)
            continue;
        int pair[2];
        MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
        if (MUST(fork()) == 0) {
            close(pair[0]);
            child(pair[1]);
        }
        close(pair[1]);
        _exit(rounds(pair[0]) > 0);
    }
    for (int number = 0; number < PAIRS; number++) {
        int status = -1;
        waitpid(senders[number], &status, 0);
        CHECK_EQ(status, 0, "everything came to child %d in each round", number);
    }
    return t_end();
}
