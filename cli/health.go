package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func healthCommand() *cli.Command {
	return &cli.Command{
		Name: "health", Usage: "ask a broker whether it is ready",
		Description: "Exits 0 when the broker answers that it is ready, 6 when it says no, 5 when nobody answers.\n\n" +
			"Examples:\n" +
			"  balsa health\n" +
			"  balsa health --http broker-1:9644 --wait 30s     waits until it is ready",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "http", Value: "127.0.0.1:9644", Usage: "the broker's HTTP `ADDRESS`"},
			&cli.BoolFlag{Name: "live", Usage: "ask only whether the process is alive (/healthz)"},
			&cli.DurationFlag{Name: "wait", Usage: "ask again until it is ready or this long has passed"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0, ""); err != nil {
				return err
			}
			address := c.String("http")
			if _, _, err := net.SplitHostPort(address); err != nil {
				return usageError{fmt.Sprintf("--http: %q is not HOST:PORT", address)}
			}
			path := "/readyz"
			if c.Bool("live") {
				path = "/healthz"
			}
			deadline := time.Now().Add(c.Duration("wait"))
			for {
				answer, err := askHealth(c.Context, address, path)
				if err != nil && time.Now().Before(deadline) {
					select {
					case <-c.Context.Done():
						return context.Cause(c.Context)
					case <-time.After(200 * time.Millisecond):
						continue
					}
				}
				if jsonOutput(c) {
					_ = printJSON(c.App.Writer, map[string]any{"healthy": err == nil, "answer": answer})
				} else if err == nil {
					fmt.Fprintln(c.App.Writer, answer)
				}
				return err
			}
		},
	}
}

func askHealth(ctx context.Context, address, path string) (string, error) {
	answer, err := askHTTP(ctx, address, path, 16<<10)
	if refused, ok := errors.AsType[httpError](err); ok {
		return refused.answer, withCode(exitUnhealthy, fmt.Errorf("not ready: %s", refused.answer))
	}
	return answer, err
}

// httpError is an answer other than 200.
type httpError struct{ url, answer string }

func (e httpError) Error() string { return e.url + ": " + e.answer }

// askHTTP gets at most limit bytes from a broker's HTTP server.
func askHTTP(ctx context.Context, address, path string, limit int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", usageError{err.Error()}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", withCode(exitUnreachable, fmt.Errorf("no broker answers at http://%s (%w)", address, rootCause(err)))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, limit))
	if err != nil {
		return "", withCode(exitUnreachable, fmt.Errorf("http://%s%s: %w", address, path, err))
	}
	answer := strings.TrimSpace(string(body))
	if response.StatusCode != http.StatusOK {
		return "", httpError{"http://" + address + path, answer}
	}
	return answer, nil
}
