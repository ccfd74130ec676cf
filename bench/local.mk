# Measurements; built when asked for by name.
EXTRA_PROGRAMS += bench/bench_codec
bench_bench_codec_SOURCES = bench/bench_codec.c
bench_bench_codec_LDADD = $(GOSSIP_LIBS)
EXTRA_PROGRAMS += bench/bench_ops
bench_bench_ops_SOURCES = bench/bench_ops.c
bench_bench_ops_LDADD = $(COMPUTE_LIBS)
EXTRA_PROGRAMS += bench/render_templates
bench_render_templates_SOURCES = bench/render_templates.c
bench_render_templates_LDADD = $(TEXT_LIBS) -lm
EXTRA_PROGRAMS += bench/bench_tokenizer
bench_bench_tokenizer_SOURCES = bench/bench_tokenizer.c
bench_bench_tokenizer_LDADD = $(TEXT_LIBS)
# The GPU tests, packed for another machine.
EXTRA_DIST += bench/gpu_bundle
# What ./demo runs.
EXTRA_DIST += \
	bench/demo_table.py \
	bench/wordnet_task.py \
	# end
# Held against each other, or against what was planned.
EXTRA_DIST += \
	bench/gpu_stress.sh \
	bench/plan_accuracy.sh \
	bench/tokenize_speed.sh \
	bench/zipf_rows.py \
	bench/variants_peer.py \
	# end
# Against what others use, on one machine.
EXTRA_DIST += \
	bench/base_dtype_quality.py \
	bench/gpu_parity.py \
	bench/template_parity.py \
	bench/tokenizer_families.py \
	bench/export_parity.py \
	bench/peers_gpu.py \
	bench/rivals_gpu.sh \
	# end
