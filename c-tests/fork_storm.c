/* Hundreds of short children in quick succession, several at a time: each uses a socket that it inherited and one of its
 * own; some are orphaned, some fork twice, some are killed as soon as they are there or in their sleep, some only end.
 * Every byte of those that wrote arrives once, and the connection ends with its last holder. On a slow machine there are
 * fewer of them. */
#include "t.h"

enum { CHILDREN = 300, AT_ONCE = 12, STARTING_MS = 8000 };

static int inherited, done[2], asleep[2];

/* Says how it went: a dot, or the step that failed. */
__attribute__((noreturn)) static void tell(char how)
{
    _exit(write(done[1], &how, 1) == 1 && how == '.' ? 0 : 1);
}

static void too_slow(int signal)
{
    (void)signal;
    tell('t');
}

/* One byte over the inherited connection, four over one of its own. */
static void use(bool own)
{
    signal(SIGALRM, too_slow);
    alarm(8);
    if (own) {
        char word[4];
        int fd = peer_connect(PORT_ECHO);
        if (fd < 0)
            tell('c');
        if (write(fd, "word", 4) != 4)
            tell('w');
        if (t_read_all(fd, word, 4) != 4)
            tell('r');
        if (memcmp(word, "word", 4) != 0)
            tell('d');
        if (fd % 2)
            t_set_linger(fd, 1, 0);
    }
    tell(write(inherited, "x", 1) == 1 ? '.' : 'i');
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
        if (number % 10 != 4 || write(asleep[1], "x", 1) == 1)
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
    char how, failed = '.';
    unsigned count = 0, sum = 0;
    int running = 0, writers = 0, finished = 0;
    bool clean = true, sleeps = true;
    t_begin();
    inherited = MUST(peer_connect(PORT_DISCARD));
    MUST(pipe(done));
    MUST(pipe(asleep));
    long long end = t_now_ms() + STARTING_MS;
    for (int i = 0; i < CHILDREN && t_now_ms() < end; i++) {
        pid_t pid = MUST(fork());
        if (pid == 0)
            child(i);
        running++;
        if (i % 5 == 4) {
            /* Every other one at any instant after the fork. */
            if (i % 10 == 4)
                sleeps = read(asleep[0], &how, 1) == 1 && sleeps;
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
    CHECK(sleeps, "those that are killed in their sleep sleep");
    close(done[1]);
    for (; read(done[0], &how, 1) == 1; finished++)
        if (how != '.')
            failed = how;
    CHECK_EQ(failed, '.', "no child and no orphan fails at a step");
    CHECK_EQ(finished, writers, "every one has written");
    CHECK_EQ(shutdown(inherited, SHUT_WR), 0, "the parent is the last one");
    char line[64] = "";
    ssize_t length = t_read_all(inherited, line, sizeof line - 1);
    line[length > 0 ? length : 0] = 0;
    CHECK(sscanf(line, "%u %u", &count, &sum) == 2, "the peer has seen the end");
    CHECK_EQ(count, writers, "every byte came once");
    return t_end();
}
