/* What the parts of the differential harness share: the text in which a sequence is written, the ports, and the roles.
 *
 * A sequence is one line: operations with `;` between them, words with spaces between them, for example
 *     socket tcp; bind anyP 16; listen 5; accept null null 0
 * The executor obeys one on real sockets and answers with its transcript, one line per operation. It runs twice, on the
 * kernel and under libremora.so, each beside a peer of its own; the driver compares the transcripts. */
#ifndef DIFFERENTIAL_H
#define DIFFERENTIAL_H

#include <stdbool.h>
#include <stddef.h>

enum {
    PORT_LISTENER = 7701, /* the peer listens */
    PORT_NOBODY = 7702,   /* nobody has this port at the peer */
    PORT_DATAGRAM = 7703, /* the peer's UDP socket */
    PORT_FIRST = 20000,   /* each sequence has a port P of its own, so that no earlier one is in its way */
    PORT_COUNT = 8000,
    SEQUENCE_SIZE = 4096,
    TRANSCRIPT_SIZE = 65536,
};

/* Descriptors of the executor, out of the way of the sockets under test. */
enum { FD_DRIVER = 100, FD_PEER = 101 };

/* Before a command to the peer in a slow run. */
#define SLOW_MARK '~'

int peer_main(void);
int execute_main(void);

/* ---- catalogue.c ---- */

struct state {
    const char *kind, *name, *prefix;
    bool options; /* the table has every option here; the random mode has them in all states */
};

extern const struct state states[];
extern const size_t state_count;

/* The options by their numbers come last, each with as many calls in a row: those that read first. */
enum { GETS_PER_OPTION = 2, CALLS_PER_OPTION = 8 };

/* Every call variant that makes sense for the kind of socket. */
size_t call_count(const char *kind);
/* Those that come first, before the options by their numbers. */
size_t plain_call_count(const char *kind);
const char *call_text(const char *kind, size_t index);

#endif
