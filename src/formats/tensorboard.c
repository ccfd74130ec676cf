/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/tensorboard.h"

#include <string.h>

#include "base/crc32c.h"

/* Kinds of field on the wire (protobuf's encoding), and the fields themselves:
 * Event: 1 wall_time double, 2 step int64, 3 file_version string, 5 summary; Summary: 1 value, repeated; Value: 1 tag string, 2 simple_value float. */
enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void encode_varint(struct writer *w, uint64_t value)
{
	for (; value >= 0x80; value >>= 7)
		write_u8(w, (uint8_t)(value | 0x80));
	write_u8(w, (uint8_t)value);
}

static void encode_key(struct writer *w, unsigned field, unsigned kind)
{
	encode_varint(w, field << 3 | kind);
}

static void encode_bytes(struct writer *w, unsigned field, const void *data, size_t size)
{
	encode_key(w, field, BYTES);
	encode_varint(w, size);
	write_bytes(w, data, size);
}

static void encode_time(struct writer *w, double wall_time)
{
	uint64_t bits;
	memcpy(&bits, &wall_time, sizeof bits);
	encode_key(w, 1, FIXED64);
	write_u64(w, bits);
}

/* TFRecord: CRCs are turned and shifted, so that the CRC of data that holds CRCs is not weak. */
static uint32_t masked(const void *data, size_t size)
{
	uint32_t crc = crc32c(data, size);
	return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* Length, its CRC, the event, its CRC. */
static void encode_record(struct writer *w, const struct writer *event)
{
	struct writer length;
	writer_init(&length);
	write_u64(&length, event->size);
	write_bytes(w, length.data, length.size);
	write_u32(w, masked(length.data, length.size));
	write_bytes(w, event->data, event->size);
	write_u32(w, masked(event->data, event->size));
	writer_fini(&length);
}

void tensorboard_encode_begin(struct writer *w, double wall_time)
{
	static const char version[] = "brain.Event:2";
	struct writer event;
	writer_init(&event);
	encode_time(&event, wall_time);
	encode_bytes(&event, 3, version, sizeof version - 1);
	encode_record(w, &event);
	writer_fini(&event);
}

static void encode_value(struct writer *summary, const struct tensorboard_scalar *s)
{
	struct writer value;
	writer_init(&value);
	encode_bytes(&value, 1, s->tag, strlen(s->tag));
	encode_key(&value, 2, FIXED32);
	write_f32(&value, (float)s->value);
	encode_bytes(summary, 1, value.data, value.size);
	writer_fini(&value);
}

void tensorboard_encode(
	struct writer *w, double wall_time, int64_t step, const struct tensorboard_scalar *scalars, size_t count)
{
	struct writer event, summary;
	writer_init(&event);
	writer_init(&summary);
	for (size_t i = 0; i < count; i++)
		encode_value(&summary, &scalars[i]);
	encode_time(&event, wall_time);
	encode_key(&event, 2, VARINT);
	encode_varint(&event, (uint64_t)step);
	encode_bytes(&event, 5, summary.data, summary.size);
	encode_record(w, &event);
	writer_fini(&summary);
	writer_fini(&event);
}
