/* System calls made by assembler, which no hook sees (run.sh sets REMORA_DEEP): they reach the socket, with every signal
 * blocked, in handlers on a stack of their own, in threads and in children; SIGSYS stays the program's. x86-64. */
#include <linux/sched.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "t.h"

static long enter(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long fourth asm("r10") = d;
    register long fifth asm("r8") = e;
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
                 : "rcx", "r11", "memory");
    return result;
}

static int fd;

/* One byte there and back; nothing but assembler. */
static bool echoes(void)
{
    char byte = 'x', back = 0;
    return enter(SYS_write, fd, (long)&byte, 1, 0, 0) == 1 && enter(SYS_read, fd, (long)&back, 1, 0, 0) == 1 &&
           back == 'x';
}

static volatile int handled;

static void on_signal(int number)
{
    (void)number;
    handled = echoes() ? 1 : -1;
}

static void *in_thread(void *unused)
{
    sigset_t all;
    (void)unused;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    return echoes() ? (void *)1 : NULL;
}

static void masks(void)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    CHECK(echoes(), "with all signals blocked by libc");
    sigprocmask(SIG_SETMASK, &before, NULL);
    unsigned long every = ~0ul, old = 0, now = 0;
    CHECK_EQ(enter(SYS_rt_sigprocmask, SIG_SETMASK, (long)&every, (long)&old, 8, 0), 0, "all are blocked by number");
    CHECK(echoes(), "with all signals blocked by number");
    kill(getpid(), SIGUSR1);
    CHECK_EQ(handled, 0, "a blocked signal waits");
    CHECK_EQ(enter(SYS_rt_sigprocmask, SIG_SETMASK, (long)&old, (long)&now, 8, 0), 0, "the old mask again");
    CHECK(now & 1ul << (SIGUSR2 - 1) && !(now & 1ul << (SIGKILL - 1)), "the mask was what was set");
    CHECK_EQ(handled, 1, "the signal has come, and its handler reached the socket");
    CHECK_EQ(enter(SYS_rt_sigprocmask, 7, (long)&old, 0, 8, 0), -EINVAL, "no such way to change a mask");
    CHECK_EQ(enter(SYS_rt_sigprocmask, SIG_BLOCK, 1, 0, 8, 0), -EFAULT, "a mask that cannot be read");
    CHECK_EQ(enter(SYS_rt_sigprocmask, SIG_BLOCK, 0, 0, 4, 0), -EINVAL, "a mask of another size");
}

/* A handler whose own mask blocks everything, entered out of a sigsuspend that blocks everything else. */
static void handlers(void)
{
    sigset_t block, suspend;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, NULL);
    handled = 0;
    kill(getpid(), SIGUSR1);
    sigfillset(&suspend);
    sigdelset(&suspend, SIGUSR1);
    sigsuspend(&suspend);
    CHECK_EQ(handled, 1, "in a handler out of sigsuspend");
    sigprocmask(SIG_UNBLOCK, &block, NULL);
    stack_t stack = {.ss_sp = malloc(1 << 17), .ss_size = 1 << 17}, old, none = {.ss_flags = SS_DISABLE};
    CHECK_EQ(enter(SYS_sigaltstack, (long)&stack, (long)&old, 0, 0, 0), 0, "a stack for handlers");
    CHECK_EQ(old.ss_flags, SS_DISABLE, "there was none");
    handled = 0;
    kill(getpid(), SIGUSR1);
    CHECK_EQ(handled, 1, "in a handler on that stack");
    CHECK(echoes(), "with that stack at hand");
    CHECK_EQ(enter(SYS_sigaltstack, (long)&none, (long)&old, 0, 0, 0), 0, "it is given up");
    CHECK(old.ss_sp == stack.ss_sp && old.ss_size == stack.ss_size && old.ss_flags == 0, "it was the one");
    stack.ss_size = 100;
    CHECK_EQ(enter(SYS_sigaltstack, (long)&stack, 0, 0, 0, 0), -ENOMEM, "one that is too small");
    free(stack.ss_sp);
}

static volatile int sigsys;

static void on_sigsys(int number)
{
    sigsys = number;
}

/* The program's SIGSYS is what it would be. */
static void own_sigsys(void)
{
    struct sigaction action = {.sa_handler = on_sigsys}, old;
    CHECK_EQ(sigaction(SIGSYS, NULL, &old), 0, "SIGSYS is asked for");
    CHECK(old.sa_handler == SIG_DFL, "and is the default's");
    CHECK_EQ(sigaction(SIGSYS, &action, NULL), 0, "SIGSYS gets a handler");
    kill(getpid(), SIGSYS);
    CHECK_EQ(sigsys, SIGSYS, "which a signal from outside reaches");
    CHECK(echoes(), "and calls of ours do not");
    sigsys = 0;
    CHECK(signal(SIGSYS, SIG_IGN) == on_sigsys, "SIGSYS is ignored");
    kill(getpid(), SIGSYS);
    CHECK(echoes() && sigsys == 0, "which changes nothing");
    CHECK(signal(SIGSYS, SIG_DFL) == SIG_IGN, "the default again");
    pid_t child = fork();
    if (child == 0) {
        kill(getpid(), SIGSYS);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "which ends a process");
}

static int status_of(long child)
{
    int status = -1;
    while (enter(SYS_wait4, child, (long)&status, 0, 0, 0) == -EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* vfork's child must not return; this one ends where it began. */
static long vfork_child(void)
{
    long result;
    asm volatile("syscall\n"
                 "test %%rax, %%rax\n"
                 "jnz 1f\n"
                 "mov $231, %%eax\n"
                 "mov $7, %%edi\n"
                 "syscall\n"
                 "1:\n"
                 : "=a"(result)
                 : "a"(SYS_vfork)
                 : "rcx", "r11", "rdi", "memory");
    return result;
}

static void children(void)
{
    long child = enter(SYS_fork, 0, 0, 0, 0, 0);
    if (child == 0)
        enter(SYS_exit_group, echoes() ? 5 : 1, 0, 0, 0, 0);
    CHECK_EQ(status_of(child), 5, "in a forked child");
    CHECK(echoes(), "the parent has the socket still");
    CHECK_EQ(status_of(vfork_child()), 7, "a child of vfork ends");
    struct clone_args arguments = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD};
    child = enter(SYS_clone3, (long)&arguments, sizeof arguments, 0, 0, 0);
    if (child == 0)
        enter(SYS_exit_group, echoes() ? 6 : 1, 0, 0, 0, 0);
    CHECK_EQ(status_of(child), 6, "in a child of clone3 as vfork");
    /* The next image has no handler: its dynamic linker, and a static program, must live. */
    child = enter(SYS_fork, 0, 0, 0, 0, 0);
    if (child == 0) {
        char *words[] = {"sh", "-c", "exit 9", NULL};
        enter(SYS_execve, (long)"/bin/sh", (long)words, (long)environ, 0, 0);
        enter(SYS_exit_group, 1, 0, 0, 0, 0);
    }
    CHECK_EQ(status_of(child), 9, "another image after execve by number");
}

/* A thread made by number, on a stack of its own: it writes a word and ends. */
static volatile int word;

static void own_thread(void)
{
    enum { SIZE = 1 << 16 };
    char *stack = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static volatile int tid = 1;
    long result;
    register long parent asm("r10") = (long)&tid;
    asm volatile("syscall\n"
                 "test %%rax, %%rax\n"
                 "jnz 1f\n"
                 "movl $42, (%%rbx)\n"
                 "mov $60, %%eax\n"
                 "xor %%edi, %%edi\n"
                 "syscall\n"
                 "1:\n"
                 : "=a"(result)
                 : "a"(SYS_clone),
                   "D"((long)(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                              CLONE_CHILD_CLEARTID)),
                   "S"(stack + SIZE), "d"(0L), "r"(parent), "b"(&word)
                 : "rcx", "r11", "memory");
    CHECK(result > 0, "a thread made by number");
    /* The kernel clears the word when the thread ends. */
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (tid != 0 && t_now_ms() < deadline)
        t_sleep_ms(1);
    CHECK_EQ(word, 42, "goes on with its maker's registers, on its own stack");
    munmap(stack, SIZE);
}

int main(void)
{
    t_begin();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT_ECHO)};
    inet_pton(AF_INET, T_PEER, &address.sin_addr);
    fd = (int)enter(SYS_socket, AF_INET, SOCK_STREAM, 0, 0, 0);
    CHECK(fd >= 0, "socket by number");
    CHECK_EQ(enter(SYS_connect, fd, (long)&address, sizeof address, 0, 0), 0, "connect by number");
    struct tcp_info information;
    socklen_t length = sizeof information;
    CHECK_EQ(enter(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, (long)&information, (long)&length), 0,
             "TCP_INFO by number");
    CHECK(echoes(), "a byte there and back");
    errno = 33;
    CHECK_EQ(enter(SYS_read, -1, 0, 0, 0, 0), -EBADF, "an error is the result");
    CHECK_EQ(errno, 33, "and errno stays");
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    sigfillset(&action.sa_mask);
    MUST(sigaction(SIGUSR1, &action, NULL));
    masks();
    handlers();
    own_sigsys();
    pthread_t thread;
    void *result = NULL;
    CHECK_EQ(pthread_create(&thread, NULL, in_thread, NULL), 0, "a thread");
    pthread_join(thread, &result);
    CHECK(result != NULL, "in a thread with all signals blocked");
    children();
    own_thread();
    CHECK(echoes(), "after all of that");
    CHECK_EQ(enter(SYS_close, fd, 0, 0, 0, 0), 0, "close by number");
    CHECK_EQ(enter(SYS_read, fd, 0, 0, 0, 0), -EBADF, "it is closed");
    return t_end();
}
