/* Hundreds of short children in quick succession, several at a time: each uses a socket that it inherited and one of its
 * own; some are orphaned, some fork twice, some are killed in their sleep, some only end. Every byte of those that
 * wrote arrives once, and the connection ends with its last holder. Kills at any instant are scripts/kills.sh's. */
#include "t.h"

enum { CHILDREN = 300, AT_ONCE = 12 };

static int inherited, done[2], asleep[2];

/* One byte over the inherited connection, four over one of its own. */
static void use(bool own)
{
    alarm(12);
    if (own) {
        char word[4];
        int fd = peer_connect(PORT_ECHO);
        if (fd < 0 || write(fd, "word", 4) != 4 || t_read_all(fd, word, 4) != 4 || memcmp(word, "word", 4) != 0)
            _exit(1);
        if (fd % 2)
            t_set_linger(fd, 1, 0);
    }
    _exit(write(inherited, "x", 1) == 1 && write(done[1], "x", 1) == 1 ? 0 : 1);
}

static void child(int number)
{
    switch (number % 5) {
    case 0: /* by a child that is not waited for */
    case 1:
        if (fork() == 0)
            use(number % 5 == 0);
        _exit(0);
    case 2:
        use(true);
        break;
    case 3:
        use(false);
        break;
    default: /* to be killed */
        alarm(12);
        if (write(asleep[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
}

static bool reap(int *running)
{
    int status = -1;
    (*running)--;
    return wait(&status) > 0 && (status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
}

int main(void)
{
    char byte;
    unsigned count = 0, sum = 0;
    int running = 0, writers = 0, finished = 0;
    bool clean = true;
    t_begin();
    inherited = MUST(peer_connect(PORT_DISCARD));
    MUST(pipe(done));
    MUST(pipe(asleep));
    for (int i = 0; i < CHILDREN; i++) {
        pid_t pid = MUST(fork());
        if (pid == 0)
            child(i);
        running++;
        if (i % 5 == 4) {
            CHECK_EQ(read(asleep[0], &byte, 1), 1, "who is to be killed sleeps");
            MUST(kill(pid, SIGKILL));
        } else {
            writers++;
        }
        if (running >= AT_ONCE)
            clean = reap(&running) && clean;
    }
    while (running > 0)
        clean = reap(&running) && clean;
    CHECK(clean, "every child ends as it should");
    close(done[1]);
    while (read(done[0], &byte, 1) == 1)
        finished++;
    CHECK_EQ(finished, writers, "every child and orphan has written");
    CHECK_EQ(shutdown(inherited, SHUT_WR), 0, "the parent is the last one");
    char line[64] = "";
    ssize_t length = t_read_all(inherited, line, sizeof line - 1);
    line[length > 0 ? length : 0] = 0;
    CHECK(sscanf(line, "%u %u", &count, &sum) == 2, "the peer has seen the end");
    CHECK_EQ(count, writers, "every byte came once");
    return t_end();
}
