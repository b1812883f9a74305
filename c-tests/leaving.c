/* Ways in which a process ends, and what becomes of what its streams still hold: flushed before the socket is given up
 * by exit and its kin, lost with _exit and a signal; the FIN comes with the last holder. And a member after chroot. */
#include <pthread.h>
#include <sys/stat.h>

#include "services.h"
#include "t.h"

enum { WORD = 5 };

static int atexit_fd;

static void last_words(void)
{
    if (write(atexit_fd, "words", WORD) != WORD)
        _exit(9);
}

static void *thread_end(void *unused)
{
    t_sleep_ms(20);
    return unused;
}

/* Leaves five bytes in a stream's buffer, and ends in this way. */
__attribute__((noreturn)) static void end_by(char way, int fd)
{
    pthread_t thread;
    FILE *stream;
    if (way == 'o') {
        dup2(fd, 1);
        close(fd);
        stream = stdout;
    } else {
        stream = fdopen(fd, "w");
    }
    setvbuf(stream, NULL, _IOFBF, 4096);
    if (way != 'a' && fprintf(stream, "words") != WORD)
        _exit(8);
    switch (way) {
    case 'a':
        atexit_fd = fd;
        atexit(last_words);
        exit(0);
    case 'q':
        quick_exit(0);
    case '_':
        _exit(0);
    case 'k':
        kill(getpid(), SIGKILL);
        break;
    case 't': /* the last thread ends the process as exit does */
        if (pthread_create(&thread, NULL, thread_end, NULL) != 0)
            _exit(7);
        pthread_exit(NULL);
    }
    exit(0);
}

static long received_by(char way, bool stays)
{
    int control, status, fd = peer_pair(&control);
    pid_t child = fork();
    if (child == 0)
        end_by(way, fd);
    if (!stays)
        close(fd);
    MUST(child);
    MUST(waitpid(child, &status, 0));
    if (stays) {
        /* The child's end is not the connection's. */
        CHECK_EQ(peer_ask(control, "RECV 0"), 0, "the peer is there");
        CHECK_EQ(write(fd, "more", 4), 4, "the other holder goes on");
        close(fd);
    }
    long total = peer_ask(control, "RECVALL");
    close(control);
    return total;
}

static int echo(int fd)
{
    char answer[WORD];
    return write(fd, "words", WORD) == WORD && t_read_all(fd, answer, WORD) == WORD && memcmp(answer, "words", WORD) == 0
               ? 0
               : 1;
}

/* Without /proc, /sys and all that the library may have looked at. */
static int in_an_empty_root(int fd)
{
    int port = 0, other, listener = t_tcp(0);
    if (echo(fd) != 0)
        return 1;
    other = peer_connect(PORT_ECHO);
    if (other < 0 || echo(other) != 0)
        return 2;
    if (t_bind(listener, T_LOCAL, 0) != 0 || listen(listener, 4) != 0 || (port = t_local_port(listener)) == 0)
        return 3;
    int control = peer_connect(PORT_COMMAND);
    if (peer_ask(control, "CONNECT %s %d", T_LOCAL, port) < 0)
        return 4;
    int accepted = accept(listener, NULL, NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(echo(other) == 0 && write(accepted, "words", WORD) == WORD ? 0 : 5);
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return 6;
    return peer_ask(control, "RECV 0") == 0 && echo(fd) == 0 ? 0 : 7;
}

int main(void)
{
    static const struct {
        char way;
        long total;
        const char *name;
    } ways[] = {{'e', WORD, "exit()"},
                {'o', WORD, "exit(), the stream is stdout"},
                {'a', WORD, "a handler of atexit() writes"},
                {'t', WORD, "the end of the last thread"},
                {'q', 0, "quick_exit()"},
                {'_', 0, "_exit()"},
                {'k', 0, "a signal"}};
    t_begin();
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        CHECK_EQ(received_by(ways[i].way, false), ways[i].total, "%s: what the peer gets before the end", ways[i].name);
        CHECK_EQ(received_by(ways[i].way, true), ways[i].total + 4, "beside another holder");
    }
    int status = -1, fd = MUST(peer_connect(PORT_ECHO));
    char root[] = "/tmp/leaving.XXXXXX";
    if (!mkdtemp(root))
        MUST(-1);
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        _exit(chroot(root) == 0 && chdir("/") == 0 ? in_an_empty_root(fd) : 20);
    }
    MUST(waitpid(child, &status, 0));
    CHECK_EQ(WEXITSTATUS(status), 0, "a member in an empty root uses old and new sockets, and so does its child");
    CHECK_EQ(echo(fd), 0, "afterwards");
    rmdir(root);
    return t_end();
}
