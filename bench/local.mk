# Measurements; built when asked for by name.
EXTRA_PROGRAMS += bench/bench_codec
bench_bench_codec_SOURCES = bench/bench_codec.c
bench_bench_codec_LDADD = $(GOSSIP_LIBS)
