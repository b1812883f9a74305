/* Two programs on one address: each reaches what the other listens on, by TCP and UDP, and is refused where the other
 * has nothing; a port that one has bound is taken for the other. The program runs itself as the second one, which gets
 * no socket of the first (arguments: what to do, a port, a port). */
#include <sys/wait.h>

#include "t.h"

#define MUCH 3000000

static char *self;

static pid_t second(const char *what, int port, int other)
{
    char first_port[16], second_port[16];
    char *words[] = {self, (char *)what, first_port, second_port, NULL};

    snprintf(first_port, sizeof first_port, "%d", port);
    snprintf(second_port, sizeof second_port, "%d", other);
    pid_t child = fork();
    if (child == 0) {
        execv(self, words);
        _exit(99);
    }
    return child;
}

static int status_of(pid_t child)
{
    int status = -1;

    if (child <= 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void fill(unsigned char *data)
{
    for (size_t at = 0; at < MUCH; at++)
        data[at] = (unsigned char)(at * 7 + at / 251);
}

/* Sends all to the first program and gets it back; 0, or the number of the check that failed. */
static int image_stream(int port, int closed)
{
    static unsigned char data[MUCH], back[MUCH];
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    int fd = t_tcp(0);

    fill(data);
    if (t_connect(fd, T_LOCAL, port) != 0)
        return 11;
    if (getpeername(fd, (struct sockaddr *)&name, &length) != 0 || !t_is(name, T_LOCAL) || ntohs(name.sin_port) != port)
        return 12;
    if (!t_is(t_sockname(fd), T_LOCAL))
        return 13;
    if (t_write_all(fd, data, MUCH) != MUCH || shutdown(fd, SHUT_WR) != 0)
        return 14;
    if (t_read_all(fd, back, MUCH) != MUCH || memcmp(data, back, MUCH) != 0)
        return 15;
    if (read(fd, back, 1) != 0)
        return 16;
    close(fd);
    fd = t_tcp(0);
    if (t_connect(fd, T_LOCAL, closed) != -1 || errno != ECONNREFUSED)
        return 17;
    close(fd);
    fd = t_tcp(0);
    if (t_bind(fd, T_LOCAL, port) != -1 || errno != EADDRINUSE)
        return 18;
    close(fd);
    /* With nobody to wait for. */
    fd = t_tcp(SOCK_NONBLOCK);
    if (t_connect(fd, T_LOCAL, port) != 0 && errno != EINPROGRESS)
        return 19;
    if (!(t_wait(fd, POLLOUT) & POLLOUT) || t_so_error(fd) != 0)
        return 20;
    return 0;
}

static int image_datagrams(int port, int closed)
{
    char buffer[64];
    int fd = t_udp(0);

    if (t_connect(fd, T_LOCAL, port) != 0 || send(fd, "question", 8, 0) != 8)
        return 21;
    if (!(t_wait(fd, POLLIN) & POLLIN) || recv(fd, buffer, sizeof buffer, 0) != 6 || memcmp(buffer, "answer", 6) != 0)
        return 22;
    close(fd);
    fd = t_udp(0);
    if (t_connect(fd, T_LOCAL, closed) != 0 || send(fd, "question", 8, 0) != 8)
        return 23;
    if (t_wait(fd, POLLIN) == 0 || recv(fd, buffer, sizeof buffer, 0) != -1 || errno != ECONNREFUSED)
        return 24;
    close(fd);
    fd = t_udp(0);
    if (t_bind(fd, T_LOCAL, port) != -1 || errno != EADDRINUSE)
        return 25;
    return 0;
}

/* Waits until the first program is gone from the connection: reset by a close with data unread. */
static int image_reset(int port, int unused)
{
    char byte;
    int fd = t_tcp(0);

    (void)unused;
    if (t_connect(fd, T_LOCAL, port) != 0 || write(fd, "unread", 6) != 6)
        return 31;
    if (read(fd, &byte, 1) != -1 || errno != ECONNRESET)
        return 32;
    return 0;
}

static int image(char **arguments)
{
    int port = atoi(arguments[2]), other = atoi(arguments[3]);

    t_arm_deadline(T_DEADLINE_SECONDS);
    switch (arguments[1][0]) {
    case 's':
        return image_stream(port, other);
    case 'd':
        return image_datagrams(port, other);
    default:
        return image_reset(port, other);
    }
}

int main(int count, char **arguments)
{
    static unsigned char data[MUCH];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    char buffer[64];
    int port;

    if (count == 4)
        return image(arguments);
    t_begin();
    self = arguments[0];
    int closed = t_free_port();
    int listener = t_listener(SOCK_CLOEXEC, &port);
    pid_t child = second("stream", port, closed);
    CHECK(t_wait(listener, POLLIN) & POLLIN, "a connection of the other program makes the listener readable");
    int fd = MUST(accept4(listener, (struct sockaddr *)&from, &length, SOCK_CLOEXEC));
    CHECK(t_is(from, T_LOCAL), "it comes from the address that is both programs'");
    CHECK_EQ(t_read_all(fd, data, MUCH), MUCH, "all of its data comes");
    CHECK_EQ(t_write_all(fd, data, MUCH), MUCH, "and goes back");
    close(fd);
    fd = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    CHECK_EQ(status_of(child), 0, "the other program has it back, is refused elsewhere and cannot bind the port");
    close(fd);

    child = second("reset", port, 0);
    fd = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    CHECK(t_wait(fd, POLLIN) & POLLIN, "data that nobody reads");
    close(fd);
    CHECK_EQ(status_of(child), 0, "is a reset for the other program when the socket is closed");

    int udp = t_udp(SOCK_CLOEXEC);
    MUST(t_bind(udp, T_LOCAL, 0));
    child = second("datagrams", t_local_port(udp), closed);
    CHECK(t_wait(udp, POLLIN) & POLLIN, "a datagram of the other program comes");
    length = sizeof from;
    CHECK_EQ(recvfrom(udp, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length), 8, "whole");
    CHECK(t_is(from, T_LOCAL), "from the common address");
    CHECK_EQ(sendto(udp, "answer", 6, 0, (struct sockaddr *)&from, length), 6, "it is answered");
    CHECK_EQ(status_of(child), 0, "the other program hears the answer, and that another port has nobody");
    close(udp);
    close(listener);
    return t_end();
}
