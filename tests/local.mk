# Each folder's tests have a fragment of their own, so that two people can add tests without meeting.
include tests/base.mk
include tests/formats.mk
include tests/text.mk
include tests/compute.mk
include tests/train.mk
include tests/gossip.mk
include tests/site.mk
include tests/net.mk
include tests/config.mk
include tests/daemon.mk
include tests/e2e.mk
include tests/gpu/local.mk
EXTRA_DIST += tests/tsan.supp
