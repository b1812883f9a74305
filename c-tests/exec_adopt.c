/* Sockets that live on over exec: the new image uses them as the old one did, by each way to exec, with data waiting,
 * its options and names kept, as connection, listener and UDP socket, beside the old holder and after it. The program
 * runs itself as the image (arguments: what to do, number of the socket). */
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "services.h"
#include "t.h"

extern char **environ;

#define QUEUED 50000
#define TAKEN 1234

/* What a connection's image has to find; 0, or the number of the check that failed. */
static int image_stream(int fd)
{
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    unsigned char buffer[4096];
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};

    if (getpeername(fd, (struct sockaddr *)&name, &length) != 0 || name.sin_family != AF_INET)
        return 11;
    if (!t_is(name, T_PEER))
        return 12;
    if (t_option(fd, SOL_SOCKET, SO_TYPE) != SOCK_STREAM || t_option(fd, IPPROTO_TCP, TCP_NODELAY) != 1)
        return 13;
    if (t_option(fd, IPPROTO_TCP, TCP_KEEPIDLE) != 123 || t_tcp_state(fd) != TCP_ESTABLISHED)
        return 14;
    /* What was queued before exec, from where the old image stopped. */
    for (size_t at = TAKEN; at < QUEUED;) {
        size_t wanted = QUEUED - at < sizeof buffer ? QUEUED - at : sizeof buffer;
        ssize_t got = recv(fd, buffer, wanted, 0);
        if (got <= 0 || pattern_match(buffer, (size_t)got, at) != (size_t)got)
            return 15;
        at += (size_t)got;
    }
    if (recv(fd, buffer, 1, MSG_DONTWAIT) != -1 || errno != EAGAIN)
        return 16;
    if (t_mask(fd) != (MASK_OUT))
        return 17;
    int set = epoll_create1(EPOLL_CLOEXEC);
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0 || epoll_wait(set, &event, 1, 0) != 0)
        return 18;
    /* Asks for more and waits for it in epoll. */
    if (send(fd, "more", 4, MSG_NOSIGNAL) != 4)
        return 19;
    if (epoll_wait(set, &event, 1, 5000) != 1 || event.data.u64 != 77)
        return 20;
    if (t_read_all(fd, buffer, 100) != 100 || pattern_match(buffer, 100, QUEUED) != 100)
        return 21;
    close(set);
    return 0;
}

/* A non-blocking copy shows the description's flag; its own flags are a socket's. */
static int image_flags(int fd)
{
    char byte;
    if (!(fcntl(fd, F_GETFL) & O_NONBLOCK) || fcntl(fd, F_GETFD) != 0)
        return 31;
    if (read(fd, &byte, 1) != -1 || errno != EAGAIN)
        return 32;
    return 0;
}

static int image_listener(int fd)
{
    char data[4];
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    if (t_option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1)
        return 41;
    int connection = accept4(fd, (struct sockaddr *)&name, &length, SOCK_CLOEXEC);
    if (connection < 0 || name.sin_family != AF_INET || !t_is(name, T_PEER))
        return 42;
    if (t_read_all(connection, data, 4) != 4 || write(connection, data, 4) != 4)
        return 43;
    return close(connection) == 0 ? 0 : 44;
}

static int image_udp(int fd)
{
    struct sockaddr_in to = t_address(T_PEER, PORT_UDP_ECHO), from = {0};
    socklen_t length = sizeof from;
    char data[8] = "";
    if (sendto(fd, "hello", 5, 0, (struct sockaddr *)&to, sizeof to) != 5 || t_wait(fd, POLLIN) != POLLIN)
        return 51;
    if (recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length) != 5 || memcmp(data, "hello", 5) != 0)
        return 52;
    return from.sin_port == to.sin_port && t_is(from, T_PEER) ? 0 : 53;
}

static int image_udp_connected(int fd)
{
    char data[8] = "";
    if (send(fd, "again", 5, 0) != 5 || t_wait(fd, POLLIN) != POLLIN)
        return 61;
    return recv(fd, data, sizeof data, 0) == 5 && memcmp(data, "again", 5) == 0 ? 0 : 62;
}

/* Says "ok" to the peer through descriptor 1, which is the socket. */
static int image_stdio(int fd)
{
    char data[3];
    (void)fd;
    if (t_read_all(0, data, 3) != 3 || memcmp(data, "\x07\x26\x45", 3) != 0)
        return 71;
    return write(1, data, 3) == 3 ? 0 : 72;
}

static int image(char **arguments)
{
    const char *what = arguments[1];
    int fd = atoi(arguments[2]);

    signal(SIGPIPE, SIG_IGN);
    alarm(10);
    if (strcmp(what, "stream") == 0)
        return image_stream(fd);
    if (strcmp(what, "flags") == 0)
        return image_flags(fd);
    if (strcmp(what, "listener") == 0)
        return image_listener(fd);
    if (strcmp(what, "udp") == 0)
        return image_udp(fd);
    if (strcmp(what, "udp-connected") == 0)
        return image_udp_connected(fd);
    if (strcmp(what, "stdio") == 0)
        return image_stdio(fd);
    if (strcmp(what, "chain") == 0) {
        /* Twice more, then the real one; the last by way of a fork. */
        char left[16];
        int more = atoi(arguments[3]) - 1;
        snprintf(left, sizeof left, "%d", more);
        if (more > 0)
            execl(arguments[0], arguments[0], "chain", arguments[2], left, NULL);
        pid_t child = fork();
        int status = -1;
        if (child == 0) {
            execl(arguments[0], arguments[0], "stream", arguments[2], NULL);
            _exit(99);
        }
        return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 98;
    }
    return 97;
}

static int status_of(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char *self;
static char number[16];

static void exec_as(int way, const char *what, int fd)
{
    char *words[] = {self, (char *)what, number, NULL};
    char *more[] = {self, (char *)what, number, "3", NULL};
    snprintf(number, sizeof number, "%d", fd);
    switch (way) {
    case 0:
        execv(self, words);
        break;
    case 1:
        execve(self, words, environ);
        break;
    case 2:
        execvp(self, words);
        break;
    case 3:
        execvpe(self, words, environ);
        break;
    case 4:
        execl(self, self, what, number, NULL);
        break;
    case 5:
        execlp(self, self, what, number, NULL);
        break;
    case 6:
        execle(self, self, what, number, NULL, environ);
        break;
    case 7: {
        int file = open(self, O_RDONLY | O_CLOEXEC);
        fexecve(file, words, environ);
        break;
    }
    case 8:
        execveat(AT_FDCWD, self, words, environ, 0);
        break;
    case 9:
        more[1] = "chain";
        execv(self, more);
        break;
    }
    _exit(99);
}

static const char *const WAYS[] = {"execv",  "execve", "execvp",  "execvpe",  "execl",
                                   "execlp", "execle", "fexecve", "execveat", "three images in a row"};
enum { WAYS_COUNT = 10 };

/* A connection with options set, QUEUED bytes of the pattern come and TAKEN of them read. */
static int prepared_pair(int *control)
{
    unsigned char buffer[TAKEN];
    int fd = peer_pair(control);
    MUST(fcntl(*control, F_SETFD, FD_CLOEXEC));
    MUST(fcntl(fd, F_SETFD, 0));
    MUST(t_set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    MUST(t_set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 123));
    MUST(peer_ask(*control, "SEND %d", QUEUED));
    MUST(t_read_all(fd, buffer, TAKEN) == TAKEN ? 0 : -1);
    MUST(pattern_match(buffer, TAKEN, 0) == TAKEN ? 0 : -1);
    return fd;
}

/* The image asks for more by "more". */
static void serve_image(int control)
{
    long got = 0;
    for (int tries = 0; got < 4 && tries < 40; tries++)
        got += MUST(peer_ask(control, "DRAIN"));
    MUST(peer_ask(control, "SEND 100"));
}

static void each_way(void)
{
    for (int way = 0; way < WAYS_COUNT; way++) {
        int control, fd = prepared_pair(&control);
        pid_t child = way % 2 ? vfork() : fork();
        if (child == 0)
            exec_as(way, "stream", fd);
        CHECK(child > 0, "fork");
        /* Every other image is the only holder. */
        if (way % 3 == 0)
            close(fd);
        serve_image(control);
        CHECK_EQ(status_of(child), 0, "%s: the image goes on with the connection", WAYS[way]);
        if (way % 3 != 0) {
            CHECK_EQ(write(fd, "still", 5), 5, "%s: so does the old holder", WAYS[way]);
            close(fd);
        }
        CHECK_EQ(peer_ask(control, "WAITEND"), 0, "%s: the last close sends the FIN", WAYS[way]);
        close(control);
    }
}

static void spawns(void)
{
    int control, fd = prepared_pair(&control);
    pid_t child;
    char *words[] = {self, "stream", number, NULL};
    snprintf(number, sizeof number, "%d", fd);
    CHECK_EQ(posix_spawn(&child, self, NULL, NULL, words, environ), 0, "posix_spawn");
    serve_image(control);
    CHECK_EQ(status_of(child), 0, "its child goes on with the connection");
    CHECK_EQ(write(fd, "x", 1), 1, "so does the parent");
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the last close sends the FIN");
    close(control);

    /* A close-on-exec socket that file actions put under 0 and 1. */
    fd = peer_pair(&control);
    MUST(fcntl(control, F_SETFD, FD_CLOEXEC));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, 0);
    posix_spawn_file_actions_adddup2(&actions, fd, 1);
    words[1] = "stdio";
    CHECK_EQ(posix_spawnp(&child, self, &actions, NULL, words, environ), 0, "posix_spawnp with file actions");
    posix_spawn_file_actions_destroy(&actions);
    close(fd);
    MUST(peer_ask(control, "SEND 3"));
    CHECK_EQ(status_of(child), 0, "its child has the connection as 0 and 1");
    CHECK_EQ(peer_ask(control, "RECV 3"), 3, "the peer has its answer");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and its FIN");
    close(control);

    char command[512];
    fd = prepared_pair(&control);
    snprintf(command, sizeof command, "'%s' stream %d", self, fd);
    child = fork();
    if (child == 0) {
        close(control);
        int status = system(command);
        /* The caller of system goes on with it too. */
        if (status == 0 && write(fd, "x", 1) != 1)
            status = 0x4d00;
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 96);
    }
    close(fd);
    serve_image(control);
    CHECK_EQ(status_of(child), 0, "system: its shell's child goes on with the connection");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and the FIN comes");
    close(control);

    fd = prepared_pair(&control);
    snprintf(command, sizeof command, "'%s' stream %d; echo $?", self, fd);
    FILE *pipe = popen(command, "re");
    CHECK(pipe != NULL, "popen");
    close(fd);
    serve_image(control);
    char line[16] = "";
    CHECK(fgets(line, sizeof line, pipe) && strcmp(line, "0\n") == 0, "popen: its shell's child goes on");
    CHECK_EQ(pclose(pipe), 0, "popen: it ends well");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and the FIN comes");
    close(control);
}

static int run(const char *what, int fd)
{
    pid_t child = fork();
    if (child == 0)
        exec_as(0, what, fd);
    return status_of(child);
}

static void other_sockets(void)
{
    int port, control = MUST(peer_connect(PORT_COMMAND)), listener = t_listener(0, &port);
    pid_t child = fork();
    if (child == 0)
        exec_as(4, "listener", listener);
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the peer connects");
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "and sends");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "an exec'ed image accepts and answers");
    CHECK_EQ(status_of(child), 0, "without an error");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "a connection that waits in the queue");
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "with data");
    child = fork();
    if (child == 0)
        exec_as(1, "listener", listener);
    close(listener);
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "is taken by an image that came later");
    CHECK_EQ(status_of(child), 0, "without an error");
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "with it the listener ends");

    int udp = MUST(t_udp(0));
    CHECK_EQ(run("udp", udp), 0, "an unbound UDP socket in an image");
    MUST(t_connect(udp, T_PEER, PORT_UDP_ECHO));
    CHECK_EQ(run("udp-connected", udp), 0, "a connected one");
    CHECK_EQ(image_udp_connected(udp), 0, "which works here too, afterwards");
    close(udp);

    int quiet = MUST(peer_connect(PORT_SILENT));
    MUST(fcntl(quiet, F_SETFD, 0));
    MUST(fcntl(quiet, F_SETFL, O_NONBLOCK));
    CHECK_EQ(run("flags", quiet), 0, "O_NONBLOCK is the description's");
    close(quiet);
    close(control);
}

static void failing(void)
{
    char *words[] = {self, NULL};
    pid_t child;
    int control, fd = prepared_pair(&control);
    CHECK_ERRNO(execv("/nowhere/at/all", words), ENOENT, "an exec that fails");
    CHECK_ERRNO(execvp("/etc", words), EACCES, "another one");
    CHECK_ERRNO(execve(t_nowhere, words, environ), EFAULT, "from nowhere");
    CHECK_ERRNO(execv("", words), ENOENT, "with an empty one");
    CHECK_EQ(posix_spawn(&child, "/nowhere/at/all", NULL, NULL, words, environ), ENOENT, "a spawn that fails");
    CHECK_EQ(fcntl(fd, F_GETFD), 0, "the flags are as before");
    child = fork();
    if (child == 0)
        _exit(image_stream(fd));
    serve_image(control);
    CHECK_EQ(status_of(child), 0, "and so are connection, names and data");
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "to the FIN");
    close(control);
}

int main(int count, char **arguments)
{
    if (count > 2)
        return image(arguments);
    self = arguments[0];
    t_begin();
    t_arm_deadline(T_DEADLINE_SECONDS);
    each_way();
    spawns();
    other_sockets();
    failing();
    return t_end();
}
