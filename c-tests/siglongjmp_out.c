/* A handler leaves a blocking call by siglongjmp: the sockets, the other threads and later calls go on. */
#include <pthread.h>
#include <setjmp.h>

#include "blocking.h"

static sigjmp_buf back;

static void leave(int signal_number)
{
    (void)signal_number;
    siglongjmp(back, 1);
}

/* Blocks in a call until the handler of a timer leaves it. */
static void jump_out(enum blocking_call call, const struct blocking *on)
{
    static timer_t timer;
    if (sigsetjmp(back, 1) == 0) {
        timer = t_signal_every(SIGUSR1, 3);
        for (;;)
            block_in(call, on);
    }
    timer_delete(timer);
}

static void *reader(void *argument)
{
    char byte;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    return (void *)(long)read(*(int *)argument, &byte, 1);
}

int main(void)
{
    int control, second_control;
    char byte;

    t_begin();
    struct sigaction action = {.sa_handler = leave};
    sigaction(SIGUSR1, &action, NULL);
    int fd = peer_pair(&control), second = peer_pair(&second_control);
    struct blocking on = blocking_on(fd);
    pthread_t thread;
    MUST(-pthread_create(&thread, NULL, reader, &second));

    for (enum blocking_call call = 0; call < BLOCKING_CALLS; call++) {
        for (int i = 0; i < 60; i++)
            jump_out(call, &on);
        CHECK(true, "left %s sixty times", blocking_names[call]);
        MUST(peer_tell(control, "SEND 1"));
        CHECK_EQ(read(fd, &byte, 1), 1, "the connection works after %s", blocking_names[call]);
        MUST(peer_number(control));
    }
    void *result = NULL;
    MUST(peer_tell(second_control, "SEND 1"));
    MUST(-pthread_join(thread, &result));
    CHECK_EQ((long)result, 1, "another thread that slept all the while has its byte");
    /* What the abandoned read had must not keep the socket open. */
    jump_out(READ, &on);
    CHECK_EQ(close(fd), 0, "close after a read was left");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "sends the FIN");
    jump_out(ACCEPT, &on);
    close(on.listener);
    fd = MUST(t_tcp(0));
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "and new connections are made");
    close(fd);
    close(second);
    return t_end();
}
