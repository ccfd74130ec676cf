# tests of formats
EXTRA_DIST += \
	tests/golden/make_tiny_model.py \
	tests/golden/tiny.gguf \
	# end
