/* The contract between peer.c and the test programs: the ports of the peer's services, the byte pattern that travels
 * and its checksum. Leaves the test kit itself to t.h. */
#ifndef SERVICES_H
#define SERVICES_H

#include <stddef.h>
#include <stdint.h>

enum {
    PORT_ECHO = 7001,         /* sends back what it gets, then its FIN after ours */
    PORT_DISCARD = 7002,      /* counts bytes; after our FIN answers "COUNT CHECKSUM\n" */
    PORT_SOURCE = 7003,       /* reads "N\n", sends N bytes of the pattern, then FIN */
    PORT_RESET = 7004,        /* accepts and resets at once */
    PORT_SILENT = 7005,       /* accepts and never reads */
    PORT_BYTE_RESET = 7006,   /* sends one byte; resets after it got one */
    PORT_FIN = 7007,          /* accepts and closes at once */
    PORT_COMMAND = 7008,      /* the puppet: one command per line, one answer per line, see peer.c */
    PORT_UDP_ECHO = 7101,     /* sends each datagram back */
    PORT_UDP_SOURCE = 7102,   /* answers "IP PORT" of the sender that it saw */
    PORT_UDP_STRANGER = 7103, /* echoes from another port than the one that was asked */
    PORT_CLOSED = 7999        /* nobody listens here, neither TCP nor UDP */
};

/* Neither 256 nor a power of two is a period of this pattern, so a lost, repeated or shifted block shows. */
static inline unsigned char pattern_byte(uint64_t offset)
{
    return (unsigned char)(offset * 31 + (offset >> 8) * 17 + (offset >> 16) * 5 + 7);
}

static inline void pattern_fill(unsigned char *buffer, size_t length, uint64_t offset)
{
    for (size_t i = 0; i < length; i++)
        buffer[i] = pattern_byte(offset + i);
}

/* Position of the first byte that differs from the pattern, or `length`. */
static inline size_t pattern_match(const unsigned char *buffer, size_t length, uint64_t offset)
{
    for (size_t i = 0; i < length; i++)
        if (buffer[i] != pattern_byte(offset + i))
            return i;
    return length;
}

#define CHECKSUM_START 2166136261u

/* FNV-1a over 32 bits: depends on the order of the bytes, which a plain sum does not. */
static inline uint32_t checksum_add(uint32_t sum, const unsigned char *buffer, size_t length)
{
    for (size_t i = 0; i < length; i++)
        sum = (sum ^ buffer[i]) * 16777619u;
    return sum;
}

#endif
