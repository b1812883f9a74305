/* More sockets on ephemeral ports than one block of them has: each gets a port of its own, by bind to port 0, by listen
 * and by a first datagram. */
#include "t.h"

#define MANY 150

static unsigned char taken[65536];

/* How many of the ports were not there before; forgets them again. */
static int distinct(const int *fds)
{
    int count = 0;
    memset(taken, 0, sizeof taken);
    for (int i = 0; i < MANY; i++) {
        int port = t_local_port(fds[i]);
        if (port > 0 && !taken[port])
            count++;
        taken[port] = 1;
    }
    return count;
}

static void close_all(const int *fds)
{
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
}

/* test REF C-10 */
int main(void)
{
    int fds[MANY];
    int good;
    t_begin();
    int types[] = {SOCK_STREAM, SOCK_DGRAM};
    for (int kind = 0; kind < 2; kind++) {
        good = 0;
        for (int i = 0; i < MANY; i++) {
            fds[i] = MUST(socket(AF_INET, types[kind], 0));
            good += t_bind(fds[i], T_LOCAL, 0) == 0;
        }
        CHECK_EQ(good, MANY, "%s: each bind to port 0", kind == 0 ? "TCP" : "UDP");
        CHECK_EQ(distinct(fds), MANY, "each a port of its own");
        close_all(fds);
    }
    good = 0;
    for (int i = 0; i < MANY; i++) {
        struct sockaddr_in peer = t_address(T_PEER, 9);
        fds[i] = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        good += sendto(fds[i], "x", 1, 0, (struct sockaddr *)&peer, sizeof peer) == 1;
    }
    CHECK_EQ(good, MANY, "UDP: each first datagram");
    CHECK_EQ(distinct(fds), MANY, "each from a port of its own");
    close_all(fds);
    good = 0;
    for (int i = 0; i < MANY; i++) {
        fds[i] = MUST(socket(AF_INET, SOCK_STREAM, 0));
        good += listen(fds[i], 1) == 0;
    }
    CHECK_EQ(good, MANY, "TCP: each listen without bind");
    CHECK_EQ(distinct(fds), MANY, "each on a port of its own");
    close_all(fds);
    return t_end();
}
