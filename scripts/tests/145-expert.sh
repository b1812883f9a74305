#!/usr/bin/env bash
# What tshark's experts say of a long transfer over a lossy link: whatever they find in a
# capture of remora, they find in one of the kernel over the same link as well. Uploads and
# downloads, in which each side's sender and receiver are seen. EXPERT_BYTES is the length
# of a transfer.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
# shellcheck source=../link.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../link.sh"
tap_begin "$0" "$@"
PORT=8080
URL="http://$LAB_NET.2:$PORT"
LENGTH="${EXPERT_BYTES:-4000000}"
# What the kernel's captures show differs with the losses: so many links are tried, and
# when remora's shows more, so many others.
SEEDS=(1 2 3)
MORE_SEEDS=(4 5 6 7 8)

# transfer up|down SEED STACK: one connection over a link of 50 Mbit/s, 10 ms and 1 % loss.
transfer() {
    local -a way=(-H 'Expect:' -T "$TAP_DIR/data" "$URL/put")
    if [ "$1" = down ]; then
        way=("$URL/bytes/$LENGTH?seed=1")
    fi
    link_start --both rate=50mbit,limit=100p,delay=5ms,loss=1% --seed "$2"
    lab_capture_start "$TAP_DIR/$3-$1-$2.pcap" 128
    lab_ours curl -sS -m 50 -o "$TAP_DIR/answer" "${way[@]}"
    # Until the last FIN, or the reset that a late one meets, has been seen.
    sleep 0.2
    lab_capture_stop
    link_stop
    if [ "$1" = up ]; then
        equal "$LENGTH $(sum_of "$TAP_DIR/data")" "$(cat "$TAP_DIR/answer")" answer
    else
        same_data "$TAP_DIR/data" "$TAP_DIR/answer"
    fi
}

# complaints FILE...: which end's packets the experts complain of, how severely and of
# what, a line each, without the numbers in it.
complaints() {
    local file
    for file in "$@"; do
        # What is in the transfer is nobody's fault.
        frames "$file" 'tcp && _ws.expert' --disable-protocol http -T fields -E aggregator='|' \
            -e ip.src -e _ws.expert.severity -e _ws.expert.message
    done | awk -F '\t' -v "ours=$T_LOCAL" '{
        count = split($2, severities, "|")
        split($3, messages, "|")
        for (i = 1; i <= count; i++) {
            gsub(/0x[0-9a-f]+|[0-9]+/, "N", messages[i])
            print ($1 == ours ? "ours" : "peer") "\t" severities[i] "\t" messages[i]
        }
    }' | sort -u
}

# both_ways kernel|remora SEED...
both_ways() {
    local stack="$1" seed
    shift
    "lab_${stack}_mode"
    for seed in "$@"; do
        transfer up "$seed" "$stack"
        transfer down "$seed" "$stack"
    done
}

captures() {
    local -a files=("$TAP_DIR/$1"-*.pcap)
    printf '%s\n' "${files[@]}"
}

of_stack() {
    local -a files
    mapfile -t files < <(captures "$1")
    complaints "${files[@]}"
}

retransmits() {
    local file
    while IFS= read -r file; do
        printf '%s: %s frames, %s retransmitted\n' "$(basename "$file")" \
            "$(frame_count "$file" tcp)" "$(frame_count "$file" tcp.analysis.retransmission)"
        [ "$(frame_count "$file" tcp.analysis.retransmission)" -gt 0 ]
    done < <(captures "$1")
}

nothing_of_its_own() {
    of_stack kernel >"$TAP_DIR/kernel.txt"
    of_stack remora >"$TAP_DIR/remora.txt"
    if [ -n "$(comm -13 "$TAP_DIR/kernel.txt" "$TAP_DIR/remora.txt")" ]; then
        both_ways kernel "${MORE_SEEDS[@]}"
        of_stack kernel >"$TAP_DIR/kernel.txt"
    fi
    printf 'of both:\n'
    comm -12 "$TAP_DIR/kernel.txt" "$TAP_DIR/remora.txt"
    printf 'of the kernel alone:\n'
    comm -23 "$TAP_DIR/kernel.txt" "$TAP_DIR/remora.txt"
    printf 'of remora alone:\n'
    comm -13 "$TAP_DIR/kernel.txt" "$TAP_DIR/remora.txt" | tee "$TAP_DIR/alone"
    [ ! -s "$TAP_DIR/alone" ]
}

mode="$LAB_MODE"
link_lab_up
peer_http "$PORT"
bytes "$LENGTH" 1 "$TAP_DIR/data"
ok "the kernel carries $LENGTH bytes each way over ${#SEEDS[@]} lossy links" both_ways kernel "${SEEDS[@]}"
ok "every one of its captures has losses" retransmits kernel
LAB_MODE="$mode"
ok_remora "remora carries the same" both_ways remora "${SEEDS[@]}"
ok_remora "every one of its captures has losses" retransmits remora
ok_remora "the experts say nothing of remora that they do not say of the kernel" nothing_of_its_own
tap_end
