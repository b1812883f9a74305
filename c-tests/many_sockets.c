/* 200 connections at once, each with its own data, all in one poll. */
#include "t.h"

#define COUNT 200

/* test REF C-10 */
int main(void)
{
    static struct pollfd set[COUNT];
    static bool seen[65536];
    int connected = 0, written = 0, right = 0, unique = 0;

    t_begin();
    T_HERE("200 connections");
    for (int i = 0; i < COUNT; i++) {
        set[i] = (struct pollfd){peer_connect(PORT_ECHO), POLLIN, 0};
        connected += set[i].fd >= 0;
        int port = t_local_port(set[i].fd);
        unique += !seen[port];
        seen[port] = true;
    }
    CHECK_EQ(connected, COUNT, "200 connections");
    CHECK_EQ(unique, COUNT, "from 200 ports");
    CHECK_EQ(poll(set, COUNT, 0), 0, "none is readable");
    for (int i = 0; i < COUNT; i++)
        written += write(set[i].fd, &i, sizeof i) == sizeof i;
    CHECK_EQ(written, COUNT, "each takes four bytes");
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    int ready = 0;
    while (ready < COUNT && t_now_ms() < deadline) {
        ready = poll(set, COUNT, 0);
        t_sleep_ms(1);
    }
    CHECK_EQ(ready, COUNT, "all become readable");
    for (int i = 0; i < COUNT; i++) {
        int value = -1;
        right += read(set[i].fd, &value, sizeof value) == sizeof value && value == i;
    }
    CHECK_EQ(right, COUNT, "each has its own data");
    for (int i = 0; i < COUNT; i++)
        close(set[i].fd);

    int port, accepted = 0, control = MUST(peer_connect(PORT_COMMAND));
    int listener = MUST(t_tcp(0));
    MUST(t_bind(listener, T_LOCAL, 0));
    MUST(listen(listener, 256));
    port = t_local_port(listener);
    CHECK_EQ(peer_ask(control, "MANY %s %d 100", T_LOCAL, port), 100, "100 connections wait in a backlog of 256");
    for (int i = 0; i < 100; i++)
        accepted += accept(listener, NULL, NULL) >= 0;
    CHECK_EQ(accepted, 100, "and are accepted");
    return t_end();
}
