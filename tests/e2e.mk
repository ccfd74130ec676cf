# End-to-end runs with real daemons on the tiny model: `make check-e2e`.
if DAEMON
noinst_PROGRAMS += tests/e2e/unsealed
tests_e2e_unsealed_SOURCES = tests/e2e/unsealed.c
tests_e2e_unsealed_LDADD = $(NET_LIBS)
E2E_TESTS += \
	tests/e2e/one_site.sh \
	tests/e2e/published.sh \
	tests/e2e/notify.py \
	tests/e2e/reload.py \
	tests/e2e/three_sites.py \
	tests/e2e/killed.py \
	tests/e2e/stopped.py \
	tests/e2e/strangers.py \
	tests/e2e/confidential.py \
	tests/e2e/bad_input.py \
	tests/e2e/disk_full.py \
	# end
endif
EXTRA_DIST += \
	tests/e2e/one_site.sh \
	tests/e2e/published.sh \
	tests/e2e/notify.py \
	tests/e2e/reload.py \
	tests/e2e/one-site.conf \
	tests/e2e/one-site.jsonl \
	tests/e2e/cluster.py \
	tests/e2e/relay.py \
	tests/e2e/three_sites.py \
	tests/e2e/killed.py \
	tests/e2e/stopped.py \
	tests/e2e/strangers.py \
	tests/e2e/confidential.py \
	tests/e2e/bad_input.py \
	tests/e2e/disk_full.py \
	tests/e2e/install.sh \
	tests/gpu/three_sites_gpu.py \
	# end
