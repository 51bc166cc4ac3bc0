// Command cacheconfigs prints pseudo-random cache configs, one JSON document a line, as BuildKit's own Go
// types write them. The same seed gives the same documents.
//
//	cacheconfigs -n 1000 -seed 1
package main

import (
	"bufio"
	_ "crypto/sha256" // for go-digest
	_ "crypto/sha512"
	"encoding/json"
	"flag"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"time"

	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
)

func main() {
	count := flag.Int("n", 1000, "how many documents")
	seed := flag.Uint64("seed", 1, "seed of the generator")
	flag.Parse()
	g := generator{rand.New(rand.NewPCG(*seed, 0))}
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	for range *count {
		if err := encoder.Encode(g.config()); err != nil {
			log.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}

type generator struct{ *rand.Rand }

// list makes a slice that is nil, empty, or short; and seldom long.
func list[T any](g generator, item func() T) []T {
	length := 0
	switch g.IntN(8) {
	case 0:
		return nil
	case 1:
		return []T{}
	case 2:
		length = 12
	default:
		length = 1 + g.IntN(4)
	}
	items := make([]T, 0, length)
	for range length {
		items = append(items, item())
	}
	return items
}

func pick[T any](g generator, choices ...T) T {
	return choices[g.IntN(len(choices))]
}

func (g generator) config() cacheimporttypes.CacheConfig {
	return cacheimporttypes.CacheConfig{Layers: list(g, g.layer), Records: list(g, g.record)}
}

func (g generator) layer() cacheimporttypes.CacheLayer {
	layer := cacheimporttypes.CacheLayer{Blob: g.digest(), ParentIndex: g.index()}
	if g.IntN(4) != 0 {
		layer.Annotations = &cacheimporttypes.LayerAnnotations{
			MediaType: pick(g, "", "application/vnd.oci.image.layer.v1.tar+gzip", g.text()),
			DiffID:    g.digest(),
			Size:      pick(g, 0, 1, -1, g.Int64(), math.MaxInt64, math.MinInt64),
			CreatedAt: g.time(),
		}
	}
	return layer
}

func (g generator) record() cacheimporttypes.CacheRecord {
	return cacheimporttypes.CacheRecord{
		Results: list(g, func() cacheimporttypes.CacheResult {
			return cacheimporttypes.CacheResult{LayerIndex: g.index(), CreatedAt: g.time()}
		}),
		ChainedResults: list(g, func() cacheimporttypes.ChainedResult {
			return cacheimporttypes.ChainedResult{LayerIndexes: list(g, g.index), CreatedAt: g.time()}
		}),
		Digest: g.digest(),
		Inputs: list(g, func() []cacheimporttypes.CacheInput {
			return list(g, func() cacheimporttypes.CacheInput {
				return cacheimporttypes.CacheInput{Selector: g.text(), LinkIndex: g.index()}
			})
		}),
	}
}

func (g generator) digest() digest.Digest {
	return pick(g, "", digest.FromString(g.text()), digest.Digest(g.text()), digest.SHA512.FromString(g.text()))
}

func (g generator) index() int {
	return pick(g, -1, 0, 1, g.IntN(100), g.Int(), math.MaxInt, math.MinInt)
}

func (g generator) text() string {
	return pick(g, "", "/src", "a&b<c>d", `quote " backslash \ slash /`, "tab\tline\nnull\x00", "wal 🐋 ünï \u2028\u2029", "not utf-8 \xff\xfe", "sha256:")
}

// time makes one that JSON can carry: Go refuses years beyond 9999.
func (g generator) time() time.Time {
	zone := pick(g, time.UTC, time.FixedZone("", 2*3600), time.FixedZone("", -(9*3600+30*60)))
	return pick(g, time.Time{}, time.Unix(0, 0).In(zone), time.Unix(g.Int64N(1<<33), g.Int64N(1e9)).In(zone),
		time.Unix(g.Int64N(1<<33), 0).In(zone))
}
