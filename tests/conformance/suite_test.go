// Package conformance holds remora to what containerd and BuildKit expect, with their own Go code.
package conformance

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/defaults"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// TestContent runs containerd's suite through containerd's own client against the content endpoint at
// REMORA_CONTENT_ADDR (host:port), in the bucket REMORA_BUCKET. Each of its tests has a prefix of its own.
func TestContent(t *testing.T) {
	address, bucket := os.Getenv("REMORA_CONTENT_ADDR"), os.Getenv("REMORA_BUCKET")
	if address == "" || bucket == "" {
		t.Fatal("REMORA_CONTENT_ADDR and REMORA_BUCKET say what to test")
	}
	run := fmt.Sprintf("suite-%d", time.Now().UnixNano())
	var stores atomic.Int64
	testsuite.ContentSuite(t, "remora", func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
		conn, err := grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(
				grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
				grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
		if err != nil {
			return nil, nil, nil, err
		}
		ctx = metadata.AppendToOutgoingContext(ctx,
			"remora-bucket", bucket,
			"remora-prefix", fmt.Sprintf("%s/%d/", run, stores.Add(1)))
		return ctx, proxy.NewContentStore(conn), conn.Close, nil
	})
}
